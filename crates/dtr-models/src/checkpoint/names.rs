//! Paths of parameters in our modules, and their names in Hugging Face files.

/// Where a visitor or mapper stands in a module tree.
#[derive(Debug, Default)]
pub(super) struct Path {
    parts: Vec<(String, String)>,
}

impl Path {
    pub(super) fn enter(&mut self, name: &str, container: &str) {
        self.parts.push((name.into(), container.into()));
    }

    pub(super) fn exit(&mut self) {
        self.parts.pop();
    }

    /// Whether this is the matrix of a projection, which the files hold as `[out, in]`.
    pub(super) fn is_transposed(&self) -> bool {
        self.parts.last().is_some_and(|(name, container)| name == "weight" && container == "Struct:Linear")
    }

    /// Name in the file. A mixer is `self_attn` or, where its layer is linear, `linear_attn`.
    pub(super) fn name(&self) -> String {
        let mut name = Vec::new();
        for (part, container) in &self.parts {
            match (part.as_str(), container.as_str()) {
                ("mixer", "Struct:Block") | ("projections", _) => {}
                ("Softmax" | "SlidingWindow", "Enum:Mixer") => name.push("self_attn"),
                (_, "Enum:Mixer") => name.push("linear_attn"),
                ("a_log", _) => name.push("A_log"),
                ("d", "Struct:Mamba2") => name.push("D"),
                ("q_map" | "k_map", _) => name.extend([part.as_str(), "weight"]),
                (part, _) => name.push(part),
            }
        }
        let decoder = self.parts.first().is_some_and(|(_, container)| container == "Struct:Decoder");
        if decoder && self.parts[0].0 != "lm_head" {
            name.insert(0, "model");
        }
        name.join(".")
    }
}
