//! Fused operations give the same bits whoever calls them and however many threads there are.

use burn::backend::Autodiff;
use burn::prelude::*;
use burn::tensor::Distribution;
use burn_flex::{Flex, FlexDevice};
use dtr_attention::{Positions, Span, convolution, gate, norm, recurrence, softmax};
use rayon::prelude::*;

type Train = Autodiff<Flex>;

/// Everything that a small model needs, large enough to be worth several threads.
#[derive(Clone)]
struct Inputs {
    wide: Vec<Tensor<Flex, 4>>,
    flat: Vec<Tensor<Flex, 3>>,
    weight: Tensor<Flex, 1>,
    filter: Tensor<Flex, 2>,
}

const BATCH: usize = 3;
const TIME: usize = 150;

fn inputs() -> Inputs {
    let device = FlexDevice;
    let random = |shape| Tensor::<Flex, 4>::random(shape, Distribution::Normal(0.0, 0.4), &device).swap_dims(1, 2);
    let mut wide: Vec<_> = [4, 4, 4, 2, 2].map(|heads| random([BATCH, TIME, heads, 32])).into();
    wide.push(random([BATCH, 32, 4, 32]));
    let flat =
        (0..4).map(|i| Tensor::random([BATCH, [TIME, TIME, TIME, 3][i], [4, 4, 128, 128][i]], Distribution::Uniform(0.0, 1.0), &device));
    Inputs { wide, flat: flat.collect(), weight: Tensor::ones([32], &device), filter: Tensor::ones([128, 4], &device) }
}

/// The bits of all outputs and gradients.
fn bits(inputs: &Inputs) -> Vec<u32> {
    let wide: Vec<Tensor<Train, 4>> = inputs.wide.iter().map(|x| Tensor::from_inner(x.clone()).require_grad()).collect();
    let flat: Vec<Tensor<Train, 3>> = inputs.flat.iter().map(|x| Tensor::from_inner(x.clone()).require_grad()).collect();
    let weight = Tensor::<Train, 1>::from_inner(inputs.weight.clone()).require_grad();
    let filter = Tensor::<Train, 2>::from_inner(inputs.filter.clone()).require_grad();
    let q = norm::rms(wide[0].clone(), weight.clone(), 1e-6);
    let k = norm::unit(wide[1].clone(), 1.0, 1e-6);
    let (g, beta) = (flat[0].clone().neg().swap_dims(1, 2), flat[1].clone().swap_dims(1, 2));
    let rule = recurrence::Inputs { q: q.clone(), k, v: wide[2].clone(), g: Some(g.unsqueeze_dim(3)), beta: Some(beta) };
    let (recalled, state) = recurrence::scan(rule, wide[5].clone());
    let span = Span { window: Some(70), sinks: 3 };
    let attended = softmax::attend(q, wide[3].clone(), wide[4].clone(), &Positions::range(0, TIME), span, 0.2);
    let mixed = gate::swiglu(recalled, attended);
    let filtered = convolution::causal_silu(flat[2].clone(), filter.clone(), flat[3].clone());
    let gradients = (mixed.clone().sum() + state.clone().sum() + filtered.clone().powi_scalar(2).sum()).backward();
    let mut data = vec![mixed.into_data(), state.into_data(), filtered.into_data()];
    data.extend(wide.iter().map(|x| x.grad(&gradients).expect("a gradient").into_data()));
    data.extend(flat.iter().map(|x| x.grad(&gradients).expect("a gradient").into_data()));
    data.push(weight.grad(&gradients).expect("a gradient").into_data());
    data.push(filter.grad(&gradients).expect("a gradient").into_data());
    data.iter().flat_map(|data| data.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>()).collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let inputs = inputs();
    let expected = bits(&inputs);
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        assert!(pool.install(|| bits(&inputs)) == expected, "{threads} threads");
    }
}

#[test]
fn forward_passes_run_inside_parallel_tasks() {
    let inputs = inputs();
    let run = || {
        let [q, k, v] = [0, 1, 2].map(|i| inputs.wide[i].clone());
        let (g, beta) = (inputs.flat[0].clone().neg().swap_dims(1, 2), inputs.flat[1].clone().swap_dims(1, 2));
        let rule = recurrence::Inputs { q: q.clone(), k, v, g: Some(g.unsqueeze_dim(3)), beta: Some(beta) };
        let (recalled, _) = recurrence::scan(rule, inputs.wide[5].clone());
        let [k, v] = [3, 4].map(|i| inputs.wide[i].clone());
        let attended = softmax::attend(q, k, v, &Positions::range(0, TIME), Span::FULL, 0.2);
        gate::swiglu(recalled, attended).into_data().to_vec::<f32>().expect("numbers")
    };
    let expected = run();
    let all: Vec<Vec<f32>> = (0..12).into_par_iter().map(|_| run()).collect();
    assert!(all.iter().all(|found| *found == expected));
}
