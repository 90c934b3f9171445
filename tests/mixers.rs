//! Mixer mathematics against public reference implementations: outputs, states, gradients. The files are made by `golden/make_mixers.py`.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use dtr_attention::recurrence::{self, Inputs};
use dtr_attention::{Positions, Span, feature_map, linear, norm, softmax};
use dtr_models::mixer::{GatedDelta, Mamba2, MixerState};
use dtr_models::{AttentionShape, Mixer};
use dtr_tests::{Golden, Inner, Train, close, numbers};

const TOLERANCE: f32 = 2e-5;
const GRADIENT_TOLERANCE: f32 = 1e-4;

/// The rule's inputs as the reference prepares them: `q`, `k` to unit length, `q` scaled.
fn prepared<B: dtr_attention::MixerBackend>([q, k, v]: [Tensor<B, 4>; 3], [g, beta]: [Tensor<B, 3>; 2]) -> Inputs<B> {
    let scale = (q.dims()[3] as f64).powf(-0.5);
    Inputs { q: norm::unit(q, scale, 1e-6), k: norm::unit(k, 1.0, 1e-6), v, g: Some(g.unsqueeze_dim(3)), beta: Some(beta) }
}

#[test]
fn gated_delta_rule_agrees_with_transformers_and_fla() {
    for time in [1, 63, 64, 65, 100, 257] {
        let file = Golden::open(&format!("mixers/gated_delta_rule_T{time}.safetensors"));
        let [q, k, v] = ["q", "k", "v"].map(|name| file.float::<Inner, 4>(name));
        let [g, beta] = ["g", "beta"].map(|name| file.float::<Inner, 3>(name));
        let inputs = prepared([q, k, v], [g, beta]);
        let state = file.float::<Inner, 4>("initial_state");
        let check = |form: &str, (output, last): (Tensor<Inner, 4>, Tensor<Inner, 4>)| {
            close(&format!("{form}, output, T = {time}"), &output, &file.float("o"), TOLERANCE);
            close(&format!("{form}, state, T = {time}"), &last, &file.float("final_state"), TOLERANCE);
        };
        check("naive", recurrence::naive(&inputs, state.clone()));
        check("fused", recurrence::scan(inputs.clone(), state.clone()));
        for chunk in [16, 32, 64] {
            check(&format!("chunk {chunk}"), recurrence::chunk(inputs.clone(), state.clone(), chunk));
        }
    }
}

type Rule = fn(Inputs<Train>, Tensor<Train, 4>) -> (Tensor<Train, 4>, Tensor<Train, 4>);

#[test]
fn gated_delta_gradients_agree_with_transformers() {
    for time in [1, 63, 64, 65, 100, 257] {
        let file = Golden::open(&format!("mixers/gated_delta_rule_T{time}.safetensors"));
        let forms: [(&str, Rule); 2] =
            [("fused", recurrence::scan::<Train>), ("chunk", |inputs, state| recurrence::chunk(inputs, state, 32))];
        for (form, rule) in forms {
            let wide = ["q", "k", "v"].map(|name| file.float::<Train, 4>(name).require_grad());
            let flat = ["g", "beta"].map(|name| file.float::<Train, 3>(name).require_grad());
            let state = file.float::<Train, 4>("initial_state").require_grad();
            let (output, last) = rule(prepared(wide.clone(), flat.clone()), state.clone());
            let loss = (output * file.float("w_o")).sum() + (last * file.float("w_final_state")).sum();
            let gradients = loss.backward();
            for (name, tensor) in ["q", "k", "v", "initial_state"].into_iter().zip(wide.iter().chain([&state])) {
                let found = tensor.grad(&gradients).expect("a gradient");
                close(&format!("{form}, {name}, T = {time}"), &found, &file.float(&format!("grad_{name}")), GRADIENT_TOLERANCE);
            }
            for (name, tensor) in ["g", "beta"].into_iter().zip(&flat) {
                let found = tensor.grad(&gradients).expect("a gradient");
                close(&format!("{form}, {name}, T = {time}"), &found, &file.float(&format!("grad_{name}")), GRADIENT_TOLERANCE);
            }
        }
    }
}

#[test]
fn normalised_linear_attention_agrees_with_fla() {
    for time in [1, 65, 100] {
        let file = Golden::open(&format!("mixers/linear_attention_T{time}.safetensors"));
        let [q, k, v] = ["q", "k", "v"].map(|name| file.float::<Inner, 4>(name));
        let state = linear::empty_state([1, 2, 8, 12], &Default::default());
        close("naive", &linear::naive(q.clone(), k.clone(), v.clone()), &file.float("o"), TOLERANCE);
        for chunk in [16, 32, 64] {
            let (output, last) = linear::chunk(q.clone(), k.clone(), v.clone(), state.clone(), chunk);
            close(&format!("chunk {chunk}, T = {time}"), &output, &file.float("o"), TOLERANCE);
            close("sum of values", &last.clone().narrow(3, 0, 12), &file.float("final_kv"), TOLERANCE);
            close("sum of keys", &last.narrow(3, 12, 1).squeeze_dim::<3>(3), &file.float("final_z"), TOLERANCE);
        }
        let mut outputs = Vec::new();
        let mut state = state;
        for t in 0..time {
            let at = |x: &Tensor<Inner, 4>| x.clone().narrow(2, t, 1);
            let (output, next) = linear::recurrent(at(&q), at(&k), at(&v), state);
            outputs.push(output);
            state = next;
        }
        close("recurrent", &Tensor::cat(outputs, 2), &file.float("o"), TOLERANCE);
    }
}

/// `sum(output * w_o)` and the gradients of `inputs` against the file's.
fn check_gradients<const R: usize>(file: &Golden, output: Tensor<Train, 4>, inputs: &[(&str, &Tensor<Train, R>)]) {
    let gradients = (output * file.float("w_o")).sum().backward();
    for (name, tensor) in inputs {
        let found = tensor.grad(&gradients).expect("a gradient");
        close(&format!("gradient of {name}"), &found, &file.float::<Inner, R>(&format!("grad_{name}")), GRADIENT_TOLERANCE);
    }
}

#[test]
fn sliding_window_with_sinks_agrees_with_torch() {
    let file = Golden::open("mixers/sliding_window_sinks.safetensors");
    let span = Span { window: Some(7), sinks: 2 };
    let positions = Positions::range(0, 50);
    let scale = 8_f64.powf(-0.5);
    let inputs = ["q", "k", "v"].map(|name| file.float::<Train, 4>(name).require_grad());
    let [q, k, v] = inputs.clone();
    let hidden = positions.hidden(&positions, span, &Default::default());
    let naive = softmax::naive(q.clone(), k.clone(), v.clone(), hidden, scale);
    close("naive", &naive.inner(), &file.float("o"), TOLERANCE);
    for chunk in [16, 32, 64] {
        let output = softmax::chunk(q.clone(), k.clone(), v.clone(), &positions, span, scale, chunk);
        close(&format!("chunk {chunk}"), &output.inner(), &file.float("o"), TOLERANCE);
    }
    let output = softmax::attend(q, k, v, &positions, span, scale);
    close("fused", &output.clone().inner(), &file.float("o"), TOLERANCE);
    let [q, k, v] = &inputs;
    check_gradients(&file, output, &[("q", q), ("k", k), ("v", v)]);
}

#[test]
fn hedgehog_agrees_with_torch() {
    let file = Golden::open("mixers/hedgehog.safetensors");
    let inputs = ["q", "k", "v"].map(|name| file.float::<Train, 4>(name).require_grad());
    // The file holds [head, output, input].
    let weight = file.float::<Train, 3>("weight").require_grad();
    let map = |x: &Tensor<Train, 4>| feature_map::hedgehog(x.clone(), weight.clone().swap_dims(1, 2));
    let [q, k, v] = &inputs;
    let state = linear::empty_state([1, 2, 16, 8], &Default::default());
    let (output, _) = linear::chunk(map(q), map(k), v.clone(), state, 16);
    close("output", &output.clone().inner(), &file.float("o"), TOLERANCE);
    check_gradients(&file, output.clone(), &[("q", q), ("k", k), ("v", v)]);
    let (output, _) = linear::chunk(map(q), map(k), v.clone(), linear::empty_state([1, 2, 16, 8], &Default::default()), 16);
    check_gradients(&file, output, &[("weight", &weight)]);
}

/// A matrix of a module of torch.
fn matrix<B: Backend>(file: &Golden, name: &str) -> Tensor<B, 2> {
    file.float::<B, 2>(&format!("{name}.weight")).transpose()
}

fn trained<B: Backend, const R: usize>(x: Tensor<B, R>) -> Param<Tensor<B, R>> {
    Param::from_tensor(x).set_require_grad(true)
}

/// The sublayer with the weights of transformers' `Qwen3_5GatedDeltaNet`.
fn gated_delta<B: Backend>(file: &Golden) -> Mixer<B> {
    let shape = AttentionShape { heads: 2, kv_heads: 2, ..SHAPE };
    let mut module = GatedDelta::<B>::new(&shape, 4, false, &Default::default());
    module.in_proj_qkv.weight = trained(matrix(file, "in_proj_qkv"));
    module.in_proj_z.weight = trained(matrix(file, "in_proj_z"));
    module.in_proj_b.weight = trained(matrix(file, "in_proj_b"));
    module.in_proj_a.weight = trained(matrix(file, "in_proj_a"));
    module.out_proj.weight = trained(matrix(file, "out_proj"));
    module.conv1d.weight = trained(file.float("conv1d.weight"));
    module.a_log = trained(file.float("A_log"));
    module.dt_bias = trained(file.float("dt_bias"));
    module.norm.weight = trained(file.float("norm.weight"));
    Mixer::GatedDelta(module)
}

/// The sublayer with the weights of transformers' `GraniteMoeHybridMambaLayer`.
fn mamba2<B: Backend>(file: &Golden) -> Mixer<B> {
    let mut module = Mamba2::<B>::new(&SHAPE, 10, 4, &Default::default());
    let joined = matrix::<B>(file, "in_proj");
    module.in_proj_z.weight = trained(joined.clone().narrow(1, 0, 24));
    module.in_proj_xbc.weight = trained(joined.clone().narrow(1, 24, 104));
    module.in_proj_dt.weight = trained(joined.narrow(1, 128, 4));
    module.out_proj.weight = trained(matrix(file, "out_proj"));
    module.conv1d.weight = trained(file.float("conv1d.weight"));
    module.conv1d.bias = Some(trained(file.float("conv1d.bias")));
    module.a_log = trained(file.float("A_log"));
    module.d = trained(file.float("D"));
    module.dt_bias = trained(file.float("dt_bias"));
    module.norm.weight = trained(file.float("norm.weight"));
    Mixer::Mamba2(module)
}

const SHAPE: AttentionShape = AttentionShape {
    hidden: 24,
    heads: 4,
    kv_heads: 4,
    head_dim: 6,
    qkv_bias: false,
    output_bias: false,
    qk_norm: false,
    causal: true,
    eps: 1e-6,
};

/// What a layer knows about tokens at these positions; no rotary tables, which these sublayers do not use.
fn context<B: Backend>(positions: Positions) -> dtr_models::Context<B> {
    dtr_models::Context { tokens: positions.tokens(&Default::default()), positions, rotary: None }
}

/// The module's outputs over whole sequences, behind left padding and in pieces; its state `[B, H, D, V]`.
fn check_sublayer(file: &Golden, module: &Mixer<Inner>, state: Tensor<Inner, 4>) {
    let x = file.float::<Inner, 3>("x");
    close("output", &module.mix(x.clone(), &context(Positions::range(0, 37))), &file.float("y"), TOLERANCE);

    let (first, mut next) = module.forward(x.clone().narrow(1, 0, 30), &context(Positions::range(0, 30)), module.empty_state(2));
    let MixerState::Recurrent(found) = &next else { panic!("a recurrence") };
    close("state after 30 tokens", &found.matrix, &state, TOLERANCE);
    let mut parts = vec![first];
    for t in 30..37 {
        let (y, after) = module.forward(x.clone().narrow(1, t, 1), &context(Positions::range(t, 1)), next);
        parts.push(y);
        next = after;
    }
    close("prefill and decode", &Tensor::cat(parts, 1), &file.float("y_cached"), TOLERANCE);

    let mask: Vec<Vec<bool>> = mask_rows(file);
    let y = module.mix(file.float("x_left"), &context(Positions::padded(&mask, &[0, 0])));
    let first = mask[1].iter().filter(|token| !**token).count();
    let valid = |x: Tensor<Inner, 3>| x.slice([1..2, first..37, 0..24]);
    close("left padding", &valid(y), &valid(file.float("y_left")), TOLERANCE);
}

#[test]
fn the_gated_delta_sublayer_is_that_of_qwen3_5() {
    let file = Golden::open("mixers/gated_delta_module.safetensors");
    check_sublayer(&file, &gated_delta(&file), file.float("state_after_prefill"));
}

#[test]
fn the_mamba2_sublayer_is_that_of_granite() {
    let file = Golden::open("mixers/mamba2_module.safetensors");
    check_sublayer(&file, &mamba2(&file), file.float::<Inner, 4>("state_after_prefill").swap_dims(2, 3));
}

#[test]
fn the_mamba2_sublayer_has_the_gradients_of_granite() {
    let file = Golden::open("mixers/mamba2_module.safetensors");
    let mixer = mamba2::<Train>(&file);
    let x = file.float::<Train, 3>("x").require_grad();
    let gradients = (mixer.mix(x.clone(), &context(Positions::range(0, 37))) * file.float("w_y")).sum().backward();
    let Mixer::Mamba2(module) = &mixer else { unreachable!() };
    close("x", &x.grad(&gradients).expect("a gradient"), &file.float("grad_x"), GRADIENT_TOLERANCE);
    let of = |param: &Param<Tensor<Train, 2>>| param.val().grad(&gradients).expect("a gradient");
    let parts = [&module.in_proj_z, &module.in_proj_xbc, &module.in_proj_dt].map(|linear| of(&linear.weight));
    close("in_proj", &Tensor::cat(parts.into(), 1), &matrix(&file, "grad_in_proj"), GRADIENT_TOLERANCE);
    close("out_proj", &of(&module.out_proj.weight), &matrix(&file, "grad_out_proj"), GRADIENT_TOLERANCE);
    let taps = module.conv1d.weight.val().grad(&gradients).expect("a gradient");
    close("conv1d", &taps, &file.float("grad_conv1d.weight"), GRADIENT_TOLERANCE);
    let bias = module.conv1d.bias.as_ref().expect("a bias");
    for (name, param) in [
        ("conv1d.bias", bias),
        ("A_log", &module.a_log),
        ("D", &module.d),
        ("dt_bias", &module.dt_bias),
        ("norm.weight", &module.norm.weight),
    ] {
        let found = param.val().grad(&gradients).expect("a gradient");
        close(name, &found, &file.float(&format!("grad_{name}")), GRADIENT_TOLERANCE);
    }
}

fn mask_rows(file: &Golden) -> Vec<Vec<bool>> {
    let mask = file.float::<Inner, 2>("mask").into_data().convert::<f32>();
    mask.iter::<f32>().map(|value| value > 0.5).collect::<Vec<_>>().chunks(37).map(<[bool]>::to_vec).collect()
}

#[test]
fn hard_cases_stay_finite() {
    let shape = [1, 2, 512, 8];
    let device = Default::default();
    let same = numbers::<Inner, 4>([1, 2, 1, 8], 1).expand(shape);
    let flat = |value: f32| Tensor::<Inner, 3>::full([1, 2, 512], value, &device);
    for g in [0.0, -50.0, -1e4] {
        let inputs = Inputs {
            q: same.clone(),
            k: norm::unit(same.clone(), 1.0, 1e-6),
            v: numbers(shape, 2),
            g: Some(flat(g).unsqueeze_dim(3)),
            beta: Some(flat(1.0)),
        };
        let state = recurrence::empty_state([1, 2, 8, 8], &device);
        let (naive, _) = recurrence::naive(&inputs, state.clone());
        for (output, _) in [recurrence::scan(inputs.clone(), state.clone()), recurrence::chunk(inputs, state, 64)] {
            close(&format!("identical keys, g = {g}"), &output, &naive, 1e-4);
        }
    }
    let inner_rule: fn(Tensor<Train, 1>) -> <Train as AutodiffBackend>::Gradients = |loss| loss.backward();
    let x = numbers::<Train, 4>(shape, 3).require_grad();
    let ones = Tensor::<Train, 3>::ones([1, 2, 512], &device);
    let inputs = Inputs {
        q: x.clone(),
        k: norm::unit(x.clone(), 1.0, 1e-6),
        v: x.clone(),
        g: Some(ones.clone().neg().mul_scalar(50.0).unsqueeze_dim(3)),
        beta: Some(ones),
    };
    let gradients = inner_rule(recurrence::scan(inputs, recurrence::empty_state([1, 2, 8, 8], &device)).0.sum());
    assert!(x.grad(&gradients).expect("a gradient").is_finite().all().into_scalar().elem::<bool>());
}
