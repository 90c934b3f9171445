//! Whether an experiment asks of its parent what it can give.

use dtr_models::DecoderConfig;
use dtr_models::config::PositionEmbedding;

use crate::error::Error;
use crate::schema::{Experiment, Goal, Limit, Operator, Towards};

/// Refuses what does not go with the parent.
///
/// # Errors
/// Names the first such key.
pub(super) fn check(experiment: &Experiment, config: &DecoderConfig) -> Result<(), Error> {
    let require = |holds: bool, key: &'static str, reason: &str, remedy: &'static str| {
        if holds { Ok(()) } else { Err(Error::NotForParent { key, reason: reason.into(), remedy }) }
    };
    let (search, efficiency) = (experiment.search(), experiment.efficiency());
    let has = |wanted: fn(&Operator) -> bool| experiment.operators().iter().any(wanted);
    if let Some(limit) = config.position_limit() {
        let generated = if config.is_encoder() { 0 } else { efficiency.decode_tokens };
        let fits = |key, tokens: usize| {
            let reason = format!("the parent has learnt {limit} positions, {tokens} tokens are asked for");
            require(tokens <= limit, key, &reason, "ask for fewer tokens")
        };
        fits("efficiency.contexts", efficiency.contexts.iter().max().map_or(0, |context| context + generated))?;
        fits("distill.length", experiment.distill().length)?;
        if let Goal::CacheBytes(Limit { context, .. })
        | Goal::PrefillSeconds(Limit { context, .. })
        | Goal::DecodeSeconds(Limit { context, .. }) = search.goal
        {
            fits("search.goal", context + generated)?;
        }
    }
    require(
        matches!(config.position, PositionEmbedding::Rotary(_))
            || !has(|operator| matches!(operator, Operator::GatedDelta { rotary: true, .. })),
        "operators",
        "the parent's positions are no rotations: gated-delta cannot take them over",
        "leave out rotary",
    )?;
    if !config.is_encoder() {
        return Ok(());
    }
    require(
        !has(|operator| matches!(operator, Operator::SlidingWindow { .. })),
        "operators",
        "sliding-window looks back only, and every token of an encoder sees all",
        "name another operator",
    )?;
    require(
        !has(|operator| matches!(operator, Operator::Mamba2 { .. })),
        "operators",
        "mamba2 is read from the left only, and every token of an encoder sees all",
        "name gated-delta or hedgehog",
    )?;
    require(
        search.recovery.is_none(),
        "search.recovery",
        "recovery trains towards predicted tokens, and an encoder predicts none",
        "leave it out",
    )?;
    require(
        search.refit.as_ref().is_none_or(|refit| refit.towards != Towards::Answers),
        "search.refit.towards",
        "an encoder predicts no tokens",
        "name outputs",
    )?;
    require(
        !matches!(search.goal, Goal::DecodeSeconds(_) | Goal::CacheBytes(_)),
        "search.goal",
        "an encoder generates nothing and keeps no cache",
        "name floor, replaced or prefill-seconds",
    )
}
