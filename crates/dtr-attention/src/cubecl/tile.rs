//! What the kernels have in common: how a state is cut over units, tiles of tokens in shared memory, products with rows of the state.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use cubecl::features::Plane;
use cubecl::prelude::*;

/// Numbers of a column that stand one below the other and are read together.
pub type Quad = Vector<f32, Const<4>>;

pub const WIDTH: usize = 4;

/// Units of a cube.
pub const UNITS: usize = 64;

/// Quads of a column that one unit can keep in registers.
const MOST_QUADS: usize = 32;

/// Units that fill a large GPU: below this number a column is shared by several.
pub const ENOUGH_UNITS: usize = 1 << 16;

/// Shared memory that a cube takes at most, in bytes: several cubes shall have room beside each other.
const SHARED_BYTES: usize = 32 * 1024;

/// Tokens that are read at a time, at most.
const MOST_TOKENS: usize = 32;

/// What fades the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decay {
    /// Nothing.
    None,
    /// One number a head.
    Head,
    /// One number a channel.
    Channel,
}

/// How a state `[rows, columns]` is cut: no product of the recurrence mixes columns, so each is a task of its own.
///
/// The quads of a column are dealt out to `parts` neighbouring units in turn, which keep them in registers from the first token
/// to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Quads of a column in one unit.
    pub quads: usize,
    /// Units to a column.
    pub parts: usize,
    /// Columns to a cube.
    pub columns: usize,
    /// Tokens in shared memory.
    pub tokens: usize,
    /// Whether the units of a column exchange sums without shared memory.
    pub planes: bool,
}

impl Plan {
    /// For `heads` states in all; `vectors` of the length of a column and `numbers` a column are read at each token.
    pub fn new<R: CubeRuntime>(
        client: &ComputeClient<R>,
        heads: usize,
        [rows, columns]: [usize; 2],
        [vectors, numbers]: [usize; 2],
    ) -> Self {
        let properties = client.properties();
        let quads = rows.div_ceil(WIDTH);
        let mut parts = quads.div_ceil(MOST_QUADS).next_power_of_two();
        let lanes = properties.hardware.plane_size_min as usize;
        let planes = properties.features.plane.contains(Plane::Ops) && lanes > 1;
        while planes && parts < lanes.min(8) && heads * columns * parts < ENOUGH_UNITS && quads / parts > 2 {
            parts *= 2;
        }
        let planes = planes && parts <= lanes.min(8);
        let own = (UNITS / parts).clamp(1, columns.next_power_of_two());
        let quads = quads.div_ceil(parts);
        let floats = properties.hardware.max_shared_memory_size.min(SHARED_BYTES) / size_of::<f32>() - own * parts - 16;
        let of_token = vectors * quads * parts * WIDTH + numbers * own + 2;
        Self { quads, parts, columns: own, tokens: (floats / of_token).clamp(1, MOST_TOKENS), planes }
    }

    /// Quads of a token in shared memory.
    pub fn stride(&self) -> usize {
        self.quads * self.parts
    }

    /// One cube for each head, each chunk and each block of columns.
    pub fn launch(&self, [batch, heads, chunks]: [usize; 3], columns: usize) -> (CubeCount, CubeDim) {
        let blocks = (chunks * columns.div_ceil(self.columns)) as u32;
        (CubeCount::Static(blocks, heads as u32, batch as u32), CubeDim::new_1d((self.columns * self.parts) as u32))
    }
}

/// Where the numbers of this cube's head begin.
#[cube]
pub fn head<E: Numeric>(of: &Tensor<E>) -> usize {
    CUBE_POS_Z as usize * of.stride(0) + CUBE_POS_Y as usize * of.stride(1)
}

/// Chunks of `length` tokens, one even where there is no token. Chunks of a block of columns are neighbours among the cubes.
#[cube]
pub fn chunk_count(time: usize, length: usize) -> usize {
    max((time + length - 1) / length, 1usize)
}

/// `exp(g)`. Not every device knows infinities, so what is 0 in any case is not computed; what is no number stays so.
#[cube]
pub fn fading(g: f32) -> f32 {
    select(g < -100.0f32, 0.0f32, g.exp())
}

/// Rows of `count` tokens from `first` on into shared memory, zeros behind them; `fades`: as factors.
#[cube]
pub fn read_rows<E: Float>(
    from: &Tensor<E>,
    into: &mut SharedMemory<Quad>,
    first: usize,
    count: usize,
    #[comptime] fades: bool,
    #[comptime] plan: Plan,
) {
    let stride = comptime!(plan.stride());
    let length = from.shape(3);
    let base = head::<E>(from) + first * from.stride(2);
    let mut place = UNIT_POS as usize;
    while place < count * stride {
        let token = place / stride;
        let row = (place % stride) * 4;
        let mut quad = Quad::new(0.0f32);
        #[unroll]
        for i in 0..4usize {
            if row + i < length {
                let number = f32::cast_from(from[base + token * from.stride(2) + (row + i) * from.stride(3)]);
                if comptime!(fades) {
                    quad[i] = fading(number);
                } else {
                    quad[i] = number;
                }
            }
        }
        into[place] = quad;
        place += CUBE_DIM as usize;
    }
}

/// `width` numbers of each of `count` tokens, those from `skip` on, into shared memory; `fades`: as factors.
#[cube]
pub fn read_numbers<E: Float>(
    from: &Tensor<E>,
    into: &mut SharedMemory<f32>,
    first: usize,
    count: usize,
    skip: usize,
    #[comptime] width: usize,
    #[comptime] fades: bool,
) {
    let length = from.shape(3);
    let base = head::<E>(from) + first * from.stride(2);
    let mut place = UNIT_POS as usize;
    while place < count * width {
        let column = skip + place % width;
        let mut number = 0.0f32;
        if column < length {
            number = f32::cast_from(from[base + place / width * from.stride(2) + column * from.stride(3)]);
            if comptime!(fades) {
                number = fading(number);
            }
        }
        into[place] = number;
        place += CUBE_DIM as usize;
    }
}

/// This unit's part of a column: numbers `from[base + row * stride]`, zeros where there is no such row or column.
#[cube]
pub fn read_column<E: Float>(
    from: &Tensor<E>,
    base: usize,
    stride: usize,
    rows: usize,
    inside: bool,
    column: &mut Array<Quad>,
    #[comptime] plan: Plan,
) {
    let part = UNIT_POS as usize % comptime!(plan.parts);
    #[unroll]
    for i in 0..comptime!(plan.quads) {
        let mut quad = Quad::new(0.0f32);
        #[unroll]
        for j in 0..4usize {
            let row = (i * comptime!(plan.parts) + part) * 4 + j;
            if inside && row < rows {
                quad[j] = f32::cast_from(from[base + row * stride]);
            }
        }
        column[i] = quad;
    }
}

/// The reverse of [`read_column`].
#[cube]
pub fn write_column<E: Float>(
    column: &Array<Quad>,
    into: &mut Tensor<E>,
    base: usize,
    stride: usize,
    rows: usize,
    inside: bool,
    #[comptime] plan: Plan,
) {
    let part = UNIT_POS as usize % comptime!(plan.parts);
    #[unroll]
    for i in 0..comptime!(plan.quads) {
        let quad = column[i];
        #[unroll]
        for j in 0..4usize {
            let row = (i * comptime!(plan.parts) + part) * 4 + j;
            if inside && row < rows {
                into[base + row * stride] = E::cast_from(quad[j]);
            }
        }
    }
}

/// `column *= factor`.
#[cube]
pub fn scale(column: &mut Array<Quad>, factor: f32, #[comptime] plan: Plan) {
    let factor = Quad::new(factor);
    #[unroll]
    for i in 0..comptime!(plan.quads) {
        column[i] = column[i] * factor;
    }
}

/// `column *= rows of the token`, row by row.
#[cube]
pub fn scale_rows(column: &mut Array<Quad>, rows: &SharedMemory<Quad>, token: usize, #[comptime] plan: Plan) {
    let base = token * comptime!(plan.stride()) + UNIT_POS as usize % comptime!(plan.parts);
    #[unroll]
    for i in 0..comptime!(plan.quads) {
        column[i] = column[i] * rows[base + i * comptime!(plan.parts)];
    }
}

/// `column += rows of the token * factor`.
#[cube]
pub fn add(column: &mut Array<Quad>, rows: &SharedMemory<Quad>, token: usize, factor: f32, #[comptime] plan: Plan) {
    let base = token * comptime!(plan.stride()) + UNIT_POS as usize % comptime!(plan.parts);
    let factor = Quad::new(factor);
    #[unroll]
    for i in 0..comptime!(plan.quads) {
        column[i] = column[i] + rows[base + i * comptime!(plan.parts)] * factor;
    }
}

/// Sum of `column * rows of the token` over the whole column, the same in each of its units. All units of a cube come here together.
#[cube]
pub fn dot(column: &Array<Quad>, rows: &SharedMemory<Quad>, token: usize, scratch: &mut SharedMemory<f32>, #[comptime] plan: Plan) -> f32 {
    let base = token * comptime!(plan.stride()) + UNIT_POS as usize % comptime!(plan.parts);
    let mut sums = Quad::new(0.0f32);
    #[unroll]
    for i in 0..comptime!(plan.quads) {
        sums += column[i] * rows[base + i * comptime!(plan.parts)];
    }
    over_parts(sums[0] + sums[1] + sums[2] + sums[3], scratch, plan)
}

/// The sum over the units of a column.
#[cube]
pub fn over_parts(part: f32, scratch: &mut SharedMemory<f32>, #[comptime] plan: Plan) -> f32 {
    let mut sum = part;
    if comptime!(plan.parts > 1 && plan.planes) {
        sum += plane_shuffle_xor(sum, 1u32);
        if comptime!(plan.parts > 2) {
            sum += plane_shuffle_xor(sum, 2u32);
        }
        if comptime!(plan.parts > 4) {
            sum += plane_shuffle_xor(sum, 4u32);
        }
    } else if comptime!(plan.parts > 1) {
        let unit = UNIT_POS as usize;
        scratch[unit] = part;
        sync_cube();
        sum = 0.0f32;
        #[unroll]
        for i in 0..comptime!(plan.parts) {
            sum += scratch[unit / comptime!(plan.parts) * comptime!(plan.parts) + i];
        }
        sync_cube();
    }
    sum
}
