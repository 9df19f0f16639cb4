//! Conversion between floating types: `y = round(x)`.
//!
//! Widening is exact; narrowing rounds to nearest, ties to even. Backward casts the gradient back.
//!
//! | | shape | type |
//! |---|---|---|
//! | x | any | T |
//! | y | as x | `to` |

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Op, Run, Shapes, float, take};
use crate::{Buffer, DType, Result, Role, Spec, on_cpu, real};

/// See the module.
#[derive(Debug, Clone)]
pub struct Cast {
    /// The type to convert to.
    pub to: DType,
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x] = take(self.name(), ins)?;
        float(self.name(), x)?;
        float(self.name(), x.with_dtype(self.to))?;
        Ok(Shapes::new([x.with_dtype(self.to)]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        Ok(Made::outs([cast(io.input(0), self.to, Role::Activation)?]))
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let dx = cast(io.dy(), io.spec(0).dtype, Role::Activation)?;
        io.give(0, dx)
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        Cost { flops: 0, bytes: (ins[0].elements() * (ins[0].dtype.size() + self.to.size())) as u64 }
    }
}

/// A copy of `x` in another type, counted under `role`.
pub fn cast(x: &Buffer, to: DType, role: Role) -> Result<Buffer> {
    if to == x.dtype() {
        return x.copy(role);
    }
    let mut y = x.device().alloc(x.spec().with_dtype(to), role)?;
    if let Kind::Gpu(gpu) = x.device().kind() {
        gpu::cast(gpu, x, &mut y)?;
        return Ok(y);
    }
    if x.dtype() == DType::F16 {
        // A stored format of checkpoints: read, never computed in.
        on_cpu!(x.device(), "cast", to, B => cpu::forward::<crate::dtype::f16, B>(x.slice(), y.slice_mut()));
        return Ok(y);
    }
    on_cpu!(x.device(), "cast", x.dtype(), A => {
        real!(to, B => cpu::forward::<A, B>(x.slice(), y.slice_mut()))
    });
    Ok(y)
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "cast",
    summary: "y = x in another floating type",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        vec![
            Case::check("to f64", Cast { to: DType::F64 }, [Input::normal([3, 5])]),
            Case::parity("several tasks to f32", Cast { to: DType::F32 }, [Input::normal([700, 131])]),
            Case::parity("several tasks to bf16", Cast { to: DType::Bf16 }, [Input::normal([700, 131])]),
            Case::bench("to bf16 2048x4096", Cast { to: DType::Bf16 }, [Input::normal([2048, 4096])]),
        ]
    },
};
