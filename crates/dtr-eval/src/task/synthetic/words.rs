//! Words that make keys of needles: `adjective-noun`, 4096 of them.

/// Adjectives.
pub(super) const ADJECTIVES: [&str; 64] = [
    "able", "amber", "ample", "bitter", "blue", "bold", "brave", "brief", "bright", "broad", "calm", "clean", "clever", "cold", "crisp",
    "curly", "dark", "deep", "dry", "eager", "early", "empty", "exact", "fair", "fast", "firm", "flat", "fresh", "gentle", "glad", "grand",
    "green", "happy", "heavy", "hollow", "humble", "idle", "jolly", "keen", "large", "late", "light", "lively", "long", "loud", "mild",
    "narrow", "neat", "noble", "odd", "pale", "plain", "proud", "quick", "quiet", "rare", "round", "sharp", "silent", "small", "steady",
    "sweet", "tall", "warm",
];

/// Nouns.
pub(super) const NOUNS: [&str; 64] = [
    "anchor", "apple", "arrow", "badger", "basket", "bell", "bottle", "branch", "bridge", "bucket", "butter", "candle", "carpet", "castle",
    "cedar", "chair", "cloud", "coat", "copper", "cradle", "desert", "drum", "eagle", "engine", "feather", "fence", "field", "flute",
    "forest", "garden", "glove", "hammer", "harbour", "helmet", "island", "jacket", "kettle", "ladder", "lantern", "lemon", "letter",
    "marble", "meadow", "mirror", "mountain", "needle", "orange", "otter", "paper", "pencil", "pepper", "pillow", "planet", "pocket",
    "ribbon", "river", "saddle", "shadow", "silver", "spoon", "ticket", "tower", "valley", "window",
];
