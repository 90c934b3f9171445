//! Paths of parameters in our modules, and their names in Hugging Face files, family by family.

/// How a family names its weights and lays them out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Naming {
    /// Beginnings of our names of what stands behind the model proper, and what stands for them.
    heads: &'static [(&'static str, &'static str)],
    /// What stands in front of all other names: as it is written, then other forms that are read.
    prefixes: &'static [&'static str],
    /// Parts of our names (`^`: beginnings), and what stands for them; in this order.
    parts: &'static [(&'static str, &'static str)],
    /// Whether matrices of the parent's blocks are held as `[in, out]`, with queries, keys and values side by side in one.
    convolutional: bool,
    /// Ends of names that hold no weights of the model.
    ignored: &'static [&'static str],
}

const LM_HEAD: &[(&str, &str)] = &[("head.", "lm_head.")];

/// Parts of BERT and its relatives.
const BERT: &[(&str, &str)] = &[
    ("layers.", "encoder.layer."),
    ("self_attn.q_proj", "attention.self.query"),
    ("self_attn.k_proj", "attention.self.key"),
    ("self_attn.v_proj", "attention.self.value"),
    ("self_attn.o_proj", "attention.output.dense"),
    ("input_layernorm", "attention.output.LayerNorm"),
    ("mlp.up_proj", "intermediate.dense"),
    ("mlp.down_proj", "output.dense"),
    ("post_attention_layernorm", "output.LayerNorm"),
    ("embed_tokens", "embeddings.word_embeddings"),
    ("embed_positions", "embeddings.position_embeddings"),
    ("embed_types", "embeddings.token_type_embeddings"),
    ("embed_norm", "embeddings.LayerNorm"),
];

const POSITION_IDS: &[&str] = &["embeddings.position_ids"];

impl Naming {
    /// Llama, and all that are named like it; students, too.
    pub(crate) const LLAMA: Self =
        Self { heads: LM_HEAD, prefixes: &["model."], parts: &[], convolutional: false, ignored: &["rotary_emb.inv_freq"] };
    /// GPT-2, with the prefix of transformers or bare as it was published.
    pub(crate) const GPT2: Self = Self {
        heads: LM_HEAD,
        prefixes: &["transformer.", ""],
        parts: &[
            ("layers.", "h."),
            ("self_attn.q_proj", "attn.c_attn"),
            ("self_attn.k_proj", "attn.c_attn"),
            ("self_attn.v_proj", "attn.c_attn"),
            ("self_attn.o_proj", "attn.c_proj"),
            ("input_layernorm", "ln_1"),
            ("post_attention_layernorm", "ln_2"),
            ("mlp.up_proj", "mlp.c_fc"),
            ("mlp.down_proj", "mlp.c_proj"),
            ("^norm.", "ln_f."),
            ("embed_tokens", "wte"),
            ("embed_positions", "wpe"),
        ],
        convolutional: true,
        // Masks, in older files.
        ignored: &[".attn.bias", ".attn.masked_bias"],
    };
    /// BERT as a model by itself, or inside a larger one.
    pub(crate) const BERT: Self = Self { heads: &[], prefixes: &["", "bert."], parts: BERT, convolutional: false, ignored: POSITION_IDS };
    /// BERT with a head for classes, behind its own pooler.
    pub(crate) const BERT_CLASSES: Self = Self { heads: &[("head.", "classifier.")], prefixes: &["bert."], ..Self::BERT };
    /// `RoBERTa`, named like BERT.
    pub(crate) const ROBERTA: Self = Self { prefixes: &["", "roberta."], ..Self::BERT };
    /// `RoBERTa` with a head for classes, to which the pooler belongs.
    pub(crate) const ROBERTA_CLASSES: Self = Self {
        heads: &[("pooler.dense.", "classifier.dense."), ("head.", "classifier.out_proj.")],
        prefixes: &["roberta."],
        // In older files, a pooler that the head does not use.
        ignored: &["embeddings.position_ids", "roberta.pooler.dense.weight", "roberta.pooler.dense.bias"],
        ..Self::BERT
    };
    /// `DistilBERT`.
    pub(crate) const DISTILBERT: Self = Self {
        prefixes: &["", "distilbert."],
        parts: &[
            ("layers.", "transformer.layer."),
            ("self_attn.q_proj", "attention.q_lin"),
            ("self_attn.k_proj", "attention.k_lin"),
            ("self_attn.v_proj", "attention.v_lin"),
            ("self_attn.o_proj", "attention.out_lin"),
            ("input_layernorm", "sa_layer_norm"),
            ("mlp.up_proj", "ffn.lin1"),
            ("mlp.down_proj", "ffn.lin2"),
            ("post_attention_layernorm", "output_layer_norm"),
            ("embed_tokens", "embeddings.word_embeddings"),
            ("embed_positions", "embeddings.position_embeddings"),
            ("embed_norm", "embeddings.LayerNorm"),
        ],
        ..Self::BERT
    };
    /// `DistilBERT` with a head for classes, to which the pooler belongs.
    pub(crate) const DISTILBERT_CLASSES: Self =
        Self { heads: &[("pooler.dense.", "pre_classifier."), ("head.", "classifier.")], prefixes: &["distilbert."], ..Self::DISTILBERT };

    /// Whether a tensor of this name may be left over.
    pub(super) fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|end| name.ends_with(end))
    }
}

/// Where a visitor or mapper stands in a module tree.
#[derive(Debug)]
pub(super) struct Path {
    parts: Vec<(String, String)>,
    naming: &'static Naming,
}

impl Path {
    pub(super) fn new(naming: &'static Naming) -> Self {
        Self { parts: Vec::new(), naming }
    }

    pub(super) fn enter(&mut self, name: &str, container: &str) {
        self.parts.push((name.into(), container.into()));
    }

    pub(super) fn exit(&mut self) {
        self.parts.pop();
    }

    /// Whether this is the matrix of a projection that the file holds as `[out, in]`.
    pub(super) fn is_transposed(&self) -> bool {
        let matrix = self.parts.last().is_some_and(|(name, container)| name == "weight" && container == "Struct:Linear");
        let name = self.own();
        matrix && !(self.naming.convolutional && (name.contains("self_attn.") || name.contains("mlp.")))
    }

    /// Which part of a tensor this is, and of how many, side by side along the last dimension.
    pub(super) fn part(&self) -> (usize, usize) {
        let name = self.own();
        let found = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].iter().position(|part| name.contains(part));
        found.filter(|_| self.naming.convolutional).map_or((0, 1), |part| (part, 3))
    }

    /// Name in the file, as it is written.
    pub(super) fn name(&self) -> String {
        self.names().remove(0)
    }

    /// All names that it may have in a file, the one that is written first.
    pub(super) fn names(&self) -> Vec<String> {
        let own = self.own();
        if self.parts.first().is_none_or(|(_, container)| container != "Struct:Decoder") {
            return vec![own];
        }
        let head = |(ours, theirs): &(&str, &str)| own.strip_prefix(ours).map(|rest| format!("{theirs}{rest}"));
        if let Some(name) = self.naming.heads.iter().find_map(head) {
            return vec![name];
        }
        let renamed = |name: String, (part, theirs): &(&str, &str)| match part.strip_prefix('^') {
            Some(start) => name.strip_prefix(start).map_or_else(|| name.clone(), |rest| format!("{theirs}{rest}")),
            None => name.replace(part, theirs),
        };
        let name = self.naming.parts.iter().fold(own, renamed);
        self.naming.prefixes.iter().map(|prefix| format!("{prefix}{name}")).collect()
    }

    /// Our name. A mixer is `self_attn` or, where its layer is linear, `linear_attn`.
    fn own(&self) -> String {
        let mut name = Vec::new();
        for (part, container) in &self.parts {
            match (part.as_str(), container.as_str()) {
                ("mixer", "Struct:Block") | ("projections", _) | (_, "Enum:Norm") => {}
                ("Softmax" | "SlidingWindow", "Enum:Mixer") => name.push("self_attn"),
                (_, "Enum:Mixer") => name.push("linear_attn"),
                ("a_log", _) => name.push("A_log"),
                ("d", "Struct:Mamba2") => name.push("D"),
                ("q_map" | "k_map", _) => name.extend([part.as_str(), "weight"]),
                (part, _) => name.push(part),
            }
        }
        name.join(".")
    }
}
