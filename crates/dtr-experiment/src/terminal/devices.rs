//! The devices of this machine as a table.

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use crate::backend::{Found, Present};
use crate::schema::{Device, Precision};
use crate::words::bytes;

/// One row a device; below, what is wrong with backends that have none, and those that are not built in.
pub fn devices(found: &[Found]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["device", "name", "dtype", "memory", "largest tensor"]);
    let size = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), |size| bytes(size as f64));
    let mut notes = Vec::new();
    for Found { backend, devices } in found {
        match devices {
            Ok(devices) if devices.is_empty() => notes.push(format!("{backend}: no device")),
            Ok(devices) => devices.iter().for_each(|Present { device, name, dtypes, memory, largest_tensor }| {
                let dtypes: Vec<&str> = dtypes.iter().copied().map(Precision::name).collect();
                table.add_row([device, name, &dtypes.join(" "), &size(*memory), &size(*largest_tensor)]);
            }),
            Err(reason) => notes.push(format!("{backend}: {reason}")),
        }
    }
    let other: Vec<&str> = Device::BACKENDS.into_iter().filter(|name| found.iter().all(|found| found.backend != *name)).collect();
    if !other.is_empty() {
        notes.push(format!("not built in: {} (`cargo xtask devices --backends {}` builds and asks them)", other.join(", "), other[0]));
    }
    std::iter::once(table.to_string()).chain(notes).collect::<Vec<_>>().join("\n")
}
