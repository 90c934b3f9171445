//! scratch
use std::time::Instant;
use burn::prelude::*;
use burn_flex::Flex;
use dtr_models::*;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let device = Default::default();
    let dir = std::path::Path::new("assets/models/tiny-qwen3");
    let (config, model) = checkpoint::load::<Flex>(dir, &device).unwrap();
    println!("{:?}", config.layout());
    let (b, t) = (16usize, 160usize);
    let ids: Vec<i64> = (0..b * t).map(|i| (i * 7919 % 2000 + 20) as i64).collect();
    let ids = Tensor::<Flex, 2, Int>::from_data(TensorData::new(ids, [b, t]), &device);
    for _ in 0..3 {
        let s = Instant::now();
        let h = model.forward(ids.clone(), dtr_attention::Positions::range(0, t), &mut model.empty_state(b));
        let e = s.elapsed().as_secs_f64();
        println!("hidden {:?} {:.0} tok/s", h.dims(), (b * t) as f64 / e);
    }
    let ctx = model.context(dtr_attention::Positions::range(0, t));
    let x = model.embed(ids.clone());
    let block = &model.layers[0];
    let time = |name: &str, f: &dyn Fn()| { f(); let s = Instant::now(); for _ in 0..5 { f() } println!("{name} {:.2} ms", s.elapsed().as_secs_f64() * 200.0) };
    time("norm", &|| { block.mixer_input(x.clone()); });
    time("mixer", &|| { block.mixer.mix(x.clone(), &ctx); });
    time("block", &|| { block.forward(x.clone(), &ctx, block.mixer.empty_state(b)); });
    time("after", &|| { block.after_mixer(x.clone(), x.clone()); });
    time("head", &|| { model.head(x.clone()); });
    if let Mixer::Softmax(a) = &block.mixer {
        let p = &a.projections;
        let y = layers::project(&p.q_proj, x.clone());
        time("project q", &|| { layers::project(&p.q_proj, x.clone()); });
        time("split heads", &|| { mixer::projections::split_heads(y.clone(), 4, 32); });
        let h = mixer::projections::split_heads(y.clone(), 4, 32);
        time("q norm", &|| { p.q_norm.as_ref().unwrap().forward(h.clone()); });
        let n = p.q_norm.as_ref().unwrap().forward(h.clone());
        time("rope", &|| { dtr_attention::rotary::rotate_half(n.clone(), ctx.rotary.cos.clone(), ctx.rotary.sin.clone()); });
        time("split", &|| { p.split(x.clone(), &ctx.rotary); });
        let mixer::projections::Projected { q, k, v } = p.split(x.clone(), &ctx.rotary);
        time("attend", &|| { dtr_attention::softmax::attend(q.clone(), k.clone(), v.clone(), &ctx.positions, dtr_attention::Span::FULL, 0.17); });
        let o = dtr_attention::softmax::attend(q.clone(), k.clone(), v.clone(), &ctx.positions, dtr_attention::Span::FULL, 0.17);
        time("merge", &|| { dtr_attention::softmax::merge_heads(o.clone()); });
    }
    for cfg in [MixerConfig::GatedDelta { convolution: 4 }, MixerConfig::Hedgehog {}, MixerConfig::SlidingWindow { window: 32, sinks: 2 }] {
        let mixer = cfg.init::<Flex>(&config.attention, &device);
        time(cfg.name(), &|| { mixer.mix(x.clone(), &ctx); });
    }
}
