//! A mixer and a model of dtr in a program of one's own, on a backend of one's choice: here Burn's `ndarray`, below the only line
//! that names one.
//!
//!     cargo run --manifest-path examples/composition/Cargo.toml

use std::path::Path;

use burn::backend::{Autodiff, NdArray};
use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::Distribution;
use dtr_attention::recurrence::{Inputs, empty_state, naive, scan};
use dtr_attention::{Positions, TrainBackend, norm};
use dtr_models::generate::{Sampling, generate};
use dtr_models::{MixerConfig, Tokenizer, checkpoint};

type Backend = Autodiff<NdArray>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Default::default();
    gated_delta_rule::<Backend>(&device);
    layer_of_one_s_own::<Backend>(&device)?;
    Ok(())
}

/// The mathematics alone: tensors in, tensors out, gradients through all of it.
fn gated_delta_rule<B: TrainBackend>(device: &B::Device) {
    let (batch, heads, time, width) = (2, 4, 100, 16);
    let random = |last| Tensor::<B, 4>::random([batch, heads, time, last], Distribution::Normal(0.0, 1.0), device);
    let keys = norm::unit(random(width), 1.0, 1e-6).require_grad();
    let inputs = Inputs::new(random(width), keys.clone(), random(width)).fading(random(1).abs().neg()).correcting(Tensor::random(
        [batch, heads, time],
        Distribution::Uniform(0.0, 1.0),
        device,
    ));
    let state = empty_state([batch, heads, width, width], device);

    let (fast, _) = scan(inputs.clone(), state.clone());
    let (defined, _) = naive(&inputs, state);
    let apart = (fast.clone() - defined).abs().max().into_scalar().elem::<f32>();
    let gradient = keys.grad(&fast.sum().backward()).expect("keys have a gradient");
    println!("gated delta rule: {apart:.1e} from its definition, gradient of the keys {:?}", gradient.dims());
}

/// A pretrained model with one attention layer exchanged, generating.
fn layer_of_one_s_own<B: TrainBackend>(device: &B::Device) -> Result<(), Box<dyn std::error::Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3");
    let (config, parent) = checkpoint::load::<B::InnerBackend>(&directory, device)?;
    let tokenizer = Tokenizer::load(&directory, config.vocabulary)?;

    let mut hybrid = parent.clone();
    let Some(dtr_models::Mixer::Softmax(softmax)) = parent.layers.get(3).map(|layer| &layer.mixer) else { unreachable!("a parent") };
    let mut linear = (MixerConfig::Hedgehog {}).init::<B::InnerBackend>(&config.attention, device);
    if let dtr_models::Mixer::Hedgehog(mixer) = &mut linear {
        let [heads, width, _] = mixer.q_map.dims();
        let identity = Tensor::eye(width, device).unsqueeze::<3>().expand([heads, width, width]);
        mixer.projections = softmax.projections.clone();
        (mixer.q_map, mixer.k_map) = (Param::from_tensor(identity.clone()), Param::from_tensor(identity));
    }
    hybrid.layers[3].mixer = linear;
    println!("hybrid: {} weights, the parent {}", hybrid.num_params(), parent.num_params());

    let prompt = tokenizer.encode("<|phone|>Alice Baker: 4821\nBob Clark: 1733\n<|query|>Bob Clark: ")?;
    for (name, model) in [("parent", &parent), ("hybrid", &hybrid)] {
        let answer = generate(model, &[prompt.clone()], 4, Sampling::GREEDY, &[], device, |_| {});
        println!("{name}: {}", tokenizer.decode(&answer[0])?);
    }
    let context = hybrid.context(Positions::range(0, prompt.len()));
    let tables = context.rotary.map(|rotary| rotary.cos.dims());
    println!("positions: {} tokens, rotary tables {tables:?}", context.positions.length());
    Ok(())
}
