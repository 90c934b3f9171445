//! The family of linear mixers against public reference implementations: outputs, states, gradients. The files are made by
//! `golden/make_family.py`.

use burn::prelude::*;
use burn::tensor::activation;
use dtr_attention::recurrence::{self, Inputs};
use dtr_attention::{convolution, feature_map, gate, loss, mamba2, norm, window_linear};
use dtr_tests::{Golden, Inner, Train, close, close_each};

const TOLERANCE: f32 = 2e-5;
const GRADIENT_TOLERANCE: f32 = 1e-4;
const TIMES: [usize; 6] = [1, 63, 64, 65, 100, 257];

/// A recurrence's inputs from a file, the decay in the shape it has there.
struct Case {
    file: Golden,
    /// By channel, `[B, H, T, D]`.
    g: Option<Tensor<Train, 4>>,
    /// By head, `[B, H, T]`.
    decay: Option<Tensor<Train, 3>>,
    /// Fixed, `[H]`.
    fixed: Option<Tensor<Train, 1>>,
    beta: Option<Tensor<Train, 3>>,
    wide: [Tensor<Train, 4>; 3],
    state: Tensor<Train, 4>,
}

impl Case {
    fn open(name: &str, time: usize) -> Self {
        let file = Golden::open(&format!("family/{name}_T{time}.safetensors"));
        let rank = file.rank("g");
        let decay = (rank == Some(3)).then(|| file.float::<Train, 3>("g").require_grad());
        let fixed = (rank == Some(1)).then(|| file.float::<Train, 1>("g").require_grad());
        let g = (rank == Some(4)).then(|| file.float::<Train, 4>("g").require_grad());
        let beta = file.rank("beta").map(|_| file.float::<Train, 3>("beta").require_grad());
        let wide = ["q", "k", "v"].map(|name| file.float::<Train, 4>(name).require_grad());
        let state = file.float::<Train, 4>("initial_state").require_grad();
        Self { file, g, decay, fixed, beta, wide, state }
    }

    fn inputs(&self) -> Inputs<Train> {
        let [q, k, v] = self.wide.clone();
        let time = q.dims()[2];
        let fixed = self.fixed.clone().map(|g| g.reshape([1, 2, 1, 1]).expand([1, 2, time, 1]));
        let g = self.g.clone().or(self.decay.clone().map(|g| g.unsqueeze_dim(3))).or(fixed);
        Inputs { q, k, v, g, beta: self.beta.clone() }
    }

    fn check(&self, what: &str, (output, last): (Tensor<Train, 4>, Tensor<Train, 4>), gradients: bool) {
        close(&format!("{what}, output"), &output.clone().inner(), &self.file.float("o"), TOLERANCE);
        close(&format!("{what}, state"), &last.clone().inner(), &self.file.float("final_state"), TOLERANCE);
        if !gradients {
            return;
        }
        let weighted = (output * self.file.float("w_o")).sum() + (last * self.file.float("w_final_state")).sum();
        let found = weighted.backward();
        let near = |name: &str, x: Tensor<Inner, 4>, expected: Tensor<Inner, 4>| {
            close(&format!("{what}, gradient of {name}"), &x, &expected, GRADIENT_TOLERANCE);
        };
        for (name, x) in ["q", "k", "v"].iter().zip(&self.wide).chain([(&"initial_state", &self.state)]) {
            near(name, x.grad(&found).expect("a gradient"), self.file.float(&format!("grad_{name}")));
        }
        for (name, x) in [("g", &self.decay), ("beta", &self.beta)] {
            if let Some(x) = x {
                let grad = x.grad(&found).expect("a gradient").unsqueeze_dim(3);
                near(name, grad, self.file.float::<Inner, 3>(&format!("grad_{name}")).unsqueeze_dim(3));
            }
        }
        if let Some(fixed) = &self.fixed {
            close(
                &format!("{what}, gradient of g"),
                &fixed.grad(&found).expect("a gradient"),
                &self.file.float("grad_g"),
                GRADIENT_TOLERANCE,
            );
        }
        if let Some(g) = &self.g {
            near("g", g.grad(&found).expect("a gradient"), self.file.float("grad_g"));
        }
    }
}

#[test]
fn recurrences_agree_with_flash_linear_attention() {
    for name in ["retention", "scalar_decay", "gla", "delta_rule", "kda", "gated_delta_negative"] {
        for time in TIMES {
            let case = Case::open(name, time);
            let check = |form: &str, found, gradients| case.check(&format!("{name}, T = {time}, {form}"), found, gradients);
            check("naive", recurrence::naive(&case.inputs(), case.state.clone()), true);
            check("fused", recurrence::scan(case.inputs(), case.state.clone()), true);
            for chunk in [16, 32, 64] {
                check(&format!("chunk {chunk}"), recurrence::chunk(case.inputs(), case.state.clone(), chunk), true);
            }
        }
    }
}

#[test]
fn retention_has_the_decays_of_retnet() {
    for time in TIMES {
        let file = Golden::open(&format!("family/retention_T{time}.safetensors"));
        let [q, k, v] = ["q", "k", "v"].map(|name| file.float::<Inner, 4>(&format!("retnet_{name}")));
        let g = recurrence::retention_decay::<Inner>(2, &Default::default());
        close_each("decays", &g.clone().reshape([2]), &file.float("retnet_g"), 1e-6);
        let inputs = Inputs::new(q, k, v).fading(g.expand([1, 2, time, 1]));
        let (output, _) = recurrence::scan(inputs, recurrence::empty_state([1, 2, 8, 6], &Default::default()));
        close("retnet", &output, &file.float("retnet_o"), TOLERANCE);
    }
}

/// Gradients of `sum(y * w)` with respect to each of `inputs`.
fn check_gradients<const R: usize>(file: &Golden, weighted: Tensor<Train, 1>, inputs: &[(&str, &Tensor<Train, R>)]) {
    let found = weighted.backward();
    for (name, tensor) in inputs {
        close(name, &tensor.grad(&found).expect("a gradient"), &file.float::<Inner, R>(name), GRADIENT_TOLERANCE);
    }
}

#[test]
fn feature_maps_agree_with_references() {
    let file = Golden::open("family/feature_maps.safetensors");
    let leaf = || file.float::<Train, 4>("x").require_grad();
    let check = |name: &str, map: &dyn Fn(Tensor<Train, 4>) -> Tensor<Train, 4>| {
        let x = leaf();
        let y = map(x.clone());
        close(name, &y.clone().inner(), &file.float(&format!("{name}_y")), TOLERANCE);
        check_gradients(&file, (y * file.float(&format!("{name}_w"))).sum(), &[(&format!("{name}_grad_x"), &x)]);
    };
    check("elu", &feature_map::elu);
    check("relu", &activation::relu);
    check("exp", &Tensor::exp);
    check("softmax", &|x| activation::softmax(x, 3));
    check("dpfp", &|x| feature_map::dpfp(x, 2));
    check("taylor", &feature_map::taylor);
    check("favor", &|x| feature_map::favor(x, file.float("favor_projection")));
    let weight = file.float::<Train, 3>("t2r_weight").require_grad();
    let bias = file.float::<Train, 2>("t2r_bias").require_grad();
    // The file holds [head, output, input].
    let t2r = |x| feature_map::t2r(x, weight.clone().swap_dims(1, 2), bias.clone());
    check("t2r", &t2r);
    let weighted = || (t2r(leaf()) * file.float("t2r_w")).sum();
    check_gradients(&file, weighted(), &[("t2r_grad_weight", &weight)]);
    check_gradients(&file, weighted(), &[("t2r_grad_bias", &bias)]);
}

#[test]
fn window_and_linear_attention_is_that_of_lolcats() {
    let file = Golden::open("family/window_and_linear.safetensors");
    let names = ["q", "k", "v", "fq", "fk"];
    let (window, scale) = (7, 8_f64.powf(-0.5));
    for form in ["naive", "scan"] {
        let leaves = names.map(|name| file.float::<Train, 4>(name).require_grad());
        let gamma = file.float::<Train, 1>("gamma").require_grad();
        let [q, k, v, q_features, k_features] = leaves.clone();
        let inputs = window_linear::Inputs { q, k, v, q_features, k_features, gamma: gamma.clone(), tokens: None };
        let output = if form == "naive" {
            window_linear::naive(&inputs, window, scale)
        } else {
            let state = window_linear::empty_state([1, 2, 8, file.float::<Inner, 4>("v").dims()[3], 10], window, &Default::default());
            window_linear::scan(inputs, state, window, scale).0
        };
        close(form, &output.clone().inner(), &file.float("o"), TOLERANCE);
        let found = (output * file.float("w_o")).sum().backward();
        for (name, leaf) in names.iter().zip(&leaves) {
            let expected = file.float::<Inner, 4>(&format!("grad_{name}"));
            close(&format!("{form}, gradient of {name}"), &leaf.grad(&found).expect("a gradient"), &expected, GRADIENT_TOLERANCE);
        }
        close(
            &format!("{form}, gradient of gamma"),
            &gamma.grad(&found).expect("a gradient"),
            &file.float("grad_gamma"),
            GRADIENT_TOLERANCE,
        );
    }
}

#[test]
fn cross_entropy_agrees_with_torch() {
    let file = Golden::open("family/cross_entropy.safetensors");
    let logits = file.float::<Train, 2>("logits").require_grad();
    let targets = file.rows("targets").concat();
    let targets = Tensor::<Train, 1, Int>::from_data(TensorData::from(&targets[..]), &Default::default());
    let loss = loss::cross_entropy(logits.clone(), targets);
    close("loss", &loss.clone().inner(), &file.float("loss"), TOLERANCE);
    check_gradients(&file, (loss * file.float("w")).sum(), &[("grad_logits", &logits)]);
}

/// The sublayer of transformers' `Mamba2Mixer`, put together from this crate's functions.
fn mamba2(file: &Golden, x: Tensor<Inner, 3>) -> Tensor<Inner, 3> {
    const HEADS: usize = 4;
    const GROUPS: usize = 2;
    const STATE: usize = 6;
    const INNER: usize = 32;
    let [batch, time, _] = x.dims();
    let matrix = |name: &str| file.float::<Inner, 2>(name).transpose().unsqueeze::<3>();
    let vector = |name: &str| file.float::<Inner, 1>(name);
    let projected = x.matmul(matrix("in_proj.weight"));
    let part = |x: &Tensor<Inner, 3>, from: usize, width: usize| x.clone().narrow(2, from, width);
    let channels = INNER + 2 * GROUPS * STATE;
    let (z, mixed, dt) = (part(&projected, 0, INNER), part(&projected, INNER, channels), part(&projected, INNER + channels, HEADS));
    let filter = file.float::<Inner, 3>("conv1d.weight").reshape([channels, 4]);
    let empty = Tensor::zeros([batch, 3, channels], &Default::default());
    let mixed = convolution::causal_bias_silu(mixed, filter, vector("conv1d.bias"), empty);
    let heads = |x: Tensor<Inner, 3>, count: usize| {
        let width = x.dims()[2] / count;
        x.reshape([batch, time, count, width]).swap_dims(1, 2)
    };
    let x = heads(part(&mixed, 0, INNER), HEADS);
    let space = mamba2::StateSpace {
        x: x.clone(),
        dt: mamba2::step_sizes(dt.swap_dims(1, 2), vector("dt_bias"), (0.0, f64::INFINITY)),
        b: heads(part(&mixed, INNER, GROUPS * STATE), GROUPS),
        c: heads(part(&mixed, INNER + GROUPS * STATE, GROUPS * STATE), GROUPS),
    };
    let state = recurrence::empty_state([batch, HEADS, STATE, INNER / HEADS], &Default::default());
    let (y, _) = recurrence::scan(space.inputs(vector("A_log")), state);
    let y = dtr_attention::softmax::merge_heads(mamba2::skip(y, x, vector("D")));
    // Gated first, then normalised by group.
    let y = gate::swiglu(z, y).reshape([batch, time, GROUPS, INNER / GROUPS]);
    let y = norm::rms(y, Tensor::ones([INNER / GROUPS], &Default::default()), 1e-5).reshape([batch, time, INNER]);
    (y * vector("norm.weight").unsqueeze()).matmul(matrix("out_proj.weight"))
}

#[test]
fn mamba2_is_that_of_transformers() {
    let file = Golden::open("family/mamba2_module.safetensors");
    close("output", &mamba2(&file, file.float("x")), &file.float("y"), TOLERANCE);
}
