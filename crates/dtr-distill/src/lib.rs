//! Blockwise distillation of attention sublayers into linear students.
