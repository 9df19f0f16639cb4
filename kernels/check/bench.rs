//! Timing of ops at the sizes that NeVA runs, beside what the machine could do at best.
//!
//! Each run starts with cold caches: between runs a buffer larger than any of them is overwritten. The time is the
//! op's own in the device's trace (events on a GPU). What a run may cost at least is its floor,
//!
//! ```text
//! floor = max(flops / rate of a large matrix product, bytes / rate of a large copy)
//! ```
//!
//! with the op's own count of operations and compulsory bytes, and both rates measured in the same process.

use super::large::{self, Scale};
use super::{Case, CaseKind, Entry, Fill, Input, Random};
use crate::device::{Buffer, Device, Kind, Role, libraries};
use crate::dtype::{Element, Real};
use crate::gemm::{self, Gemm};
use crate::op::{Cost, Forward, Made, Needs, Op, Run, Shapes, Want, take};
use crate::{DType, Result, Spec, real, run};
use cudarc::nvtx;
use std::time::Duration;

/// Runs before the first one that is timed.
const UNTIMED: usize = 2;

/// Values that are drawn for an input; a longer one repeats them. Billions would take minutes, and no op could tell.
/// Odd, so that no two rows of a usual width are alike.
const DRAWN: usize = (1 << 20) - 3;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Timed runs of each case.
    pub runs: usize,
    /// Bytes overwritten between runs.
    pub flush_bytes: usize,
    /// Bytes of the copy that is a ceiling.
    pub copy_bytes: usize,
    /// Rows, columns and depth of the product that is a ceiling.
    pub gemm_size: usize,
}

/// What is timed of an op here: on a GPU its sizes in NeVA-7B ([`large`]), else those that a CPU runs in a moment. For
/// a smoke test all of these paths, small.
pub fn cases(entry: &Entry, device: &Device, smoke: bool) -> Vec<Case> {
    let of_kind = |kind| (entry.cases)().into_iter().filter(move |case| case.kind == kind);
    match device.kind() {
        _ if smoke => of_kind(CaseKind::Parity).chain(large::cases(entry.name, Scale::Smoke)).collect(),
        Kind::Gpu(_) => large::cases(entry.name, Scale::Full),
        _ => of_kind(CaseKind::Bench).collect(),
    }
}

impl Effort {
    /// What gives numbers to report on this kind of device.
    pub fn full(device: &Device) -> Self {
        match device.kind() {
            Kind::Gpu(_) => Effort { runs: 30, flush_bytes: 256 << 20, copy_bytes: 1 << 30, gemm_size: 8192 },
            _ => Effort { runs: 10, flush_bytes: 128 << 20, copy_bytes: 256 << 20, gemm_size: 1024 },
        }
    }

    /// Enough to see that everything runs.
    pub const SMOKE: Effort = Effort { runs: 1, flush_bytes: 1 << 12, copy_bytes: 1 << 16, gemm_size: 64 };
}

/// Rates of the device at its best, measured.
#[derive(Debug, Clone)]
pub struct Ceilings {
    /// Bytes read and written per second by a large copy.
    pub bytes: f64,
    /// Bytes that a copy reads and writes, and the rate of that, ascending: smaller ones are slower.
    pub copies: Vec<(usize, f64)>,
    /// Operations per second of a large product in f32.
    pub f32_flops: f64,
    /// The same in bf16.
    pub bf16_flops: f64,
}

impl Ceilings {
    /// Measures them.
    pub fn measure(device: &Device, effort: Effort) -> Result<Self> {
        let copy = |bytes: usize| {
            let copy = Case::bench("ceiling", Copy, [Input::normal([bytes / 4])]);
            let timing = forward(&copy, device, DType::F32, effort)?;
            Ok::<_, crate::Error>((2 * bytes, 2.0 * bytes as f64 / timing.best()))
        };
        let copies =
            (0..=6).rev().map(|halved| copy(effort.copy_bytes >> halved)).collect::<Result<Vec<_>>>()?;
        let bytes = copies.last().expect("one copy is the largest").1;
        let flops = |dtype| {
            let size = [effort.gemm_size; 2];
            let ins = [Input::normal(size), Input::normal(size)];
            let product = Case::bench("ceiling", Gemm::new(gemm::Kind::NT), ins);
            let timing = forward(&product, device, dtype, effort)?;
            Ok::<_, crate::Error>(timing.cost.flops as f64 / timing.best())
        };
        Ok(Ceilings { bytes, copies, f32_flops: flops(DType::F32)?, bf16_flops: flops(DType::Bf16)? })
    }

    /// The least time for this work, in seconds.
    pub fn floor(&self, cost: Cost, dtype: DType) -> f64 {
        let flops = if dtype == DType::Bf16 { self.bf16_flops } else { self.f32_flops };
        (cost.flops as f64 / flops).max(cost.bytes as f64 / self.bytes)
    }
}

/// The times of one pass of one case.
#[derive(Debug, Clone)]
pub struct Timing {
    /// "forward" or "backward".
    pub pass: &'static str,
    /// What it does at least.
    pub cost: Cost,
    /// Ascending.
    pub times: Vec<Duration>,
}

impl Timing {
    /// Seconds of the median run.
    pub fn median(&self) -> f64 {
        self.times[self.times.len() / 2].as_secs_f64()
    }

    /// Seconds of the fastest run.
    pub fn best(&self) -> f64 {
        self.times[0].as_secs_f64()
    }

    /// How far the runs spread: the central four fifths of them over the median.
    pub fn spread(&self) -> f64 {
        let at = |part: usize| self.times[(self.times.len() - 1) * part / 10].as_secs_f64();
        (at(9) - at(1)) / self.median()
    }
}

/// Times one pass of a case.
pub fn time(case: &Case, backward: bool, device: &Device, dtype: DType, effort: Effort) -> Result<Timing> {
    if !backward {
        return forward(case, device, dtype, effort);
    }
    let mut bench = Bench::new(case, device, dtype)?;
    bench.draw_gradients()?;
    let cost = case.op.cost(&bench.specs, Run::Backward(bench.needs));
    let times = bench.times(effort, || bench.ready(), |ready| bench.backward(ready))?;
    Ok(Timing { pass: "backward", cost, times })
}

fn forward(case: &Case, device: &Device, dtype: DType, effort: Effort) -> Result<Timing> {
    let bench = Bench::new(case, device, dtype)?;
    let cost = case.op.cost(&bench.specs, Run::Forward);
    let pass = |ins| run::forward(&*case.op, ins, bench.needs).map(drop);
    let times = bench.times(effort, || bench.fresh(), pass)?;
    Ok(Timing { pass: "forward", cost, times })
}

/// Runs one pass of a case exactly once: what a profiler is pointed at. It is all that happens between the driver's
/// calls that start and stop profilers, and lies within an NVTX range of the op's name where the library for that is
/// there.
pub fn once(case: &Case, backward: bool, device: &Device, dtype: DType) -> Result<()> {
    let mut bench = Bench::new(case, device, dtype)?;
    if backward {
        bench.draw_gradients()?;
        let ready = bench.ready()?;
        profiled(case.op.name(), device, || bench.backward(ready))
    } else {
        let ins = bench.fresh()?;
        profiled(case.op.name(), device, || run::forward(&*case.op, ins, bench.needs).map(drop))
    }
}

fn profiled(op: &'static str, device: &Device, pass: impl FnOnce() -> Result<()>) -> Result<()> {
    device.wait()?;
    let _profiler = match device.kind() {
        Kind::Gpu(gpu) => Some(gpu.profile(op)?),
        _ => None,
    };
    let _range = libraries::nvtx().then(|| nvtx::scoped_range(op));
    pass()?;
    device.wait()
}

/// The time of the case's op in the trace that ends here.
fn own_time(device: &Device, case: &Case) -> Result<Option<Duration>> {
    Ok(device.take_trace()?.iter().find(|event| event.op == case.op.name()).map(|event| event.time))
}

/// A case with its buffers.
struct Bench<'a> {
    case: &'a Case,
    device: &'a Device,
    specs: Vec<Spec>,
    buffers: Vec<Buffer>,
    needs: Needs,
    /// The gradients of the outputs, where backward is run.
    gradients: Vec<Buffer>,
}

/// What backward takes: the kept buffers and the gradients of the outputs.
type Ready = (Vec<Buffer>, Vec<Option<Buffer>>);

impl<'a> Bench<'a> {
    fn new(case: &'a Case, device: &'a Device, dtype: DType) -> Result<Self> {
        let needs = case.needs();
        let (specs, mut random) = (case.specs(dtype), Random::new(1));
        let draw = |(input, spec): (&Input, &Spec)| drawn(&input.fill, *spec, device, &mut random);
        let buffers = case.ins.iter().zip(&specs).map(draw).collect::<Result<_>>()?;
        Ok(Bench { case, device, specs, buffers, needs, gradients: vec![] })
    }

    /// Before [`Bench::ready`]; they stay the same from run to run.
    fn draw_gradients(&mut self) -> Result<()> {
        let mut random = Random::new(2);
        let outs = self.case.op.infer(&self.specs)?.outs;
        let draw = |out: Spec| drawn(&Fill::Normal(1.0), out, self.device, &mut random);
        self.gradients = outs.into_iter().map(draw).collect::<Result<_>>()?;
        Ok(())
    }

    /// The times, ascending, of `pass` on what `prepare` makes anew for each run.
    fn times<R>(
        &self,
        effort: Effort,
        prepare: impl Fn() -> Result<R>,
        pass: impl Fn(R) -> Result<()>,
    ) -> Result<Vec<Duration>> {
        let mut flush = Flush::new(self.device, effort)?;
        let mut times = vec![];
        for i in 0..UNTIMED + effort.runs {
            let ready = prepare()?;
            flush.run()?;
            self.device.start_trace();
            pass(ready)?;
            times.extend(own_time(self.device, self.case)?.filter(|_| i >= UNTIMED));
        }
        times.sort();
        Ok(times)
    }

    /// Inputs with bytes of their own, as the last holder has them in a model: ops may work in place.
    fn fresh(&self) -> Result<Vec<Buffer>> {
        self.buffers.iter().map(|b| b.copy(Role::Activation)).collect()
    }

    fn ready(&self) -> Result<Ready> {
        let ran = run::forward(&*self.case.op, self.fresh()?, self.needs)?;
        let douts =
            self.gradients.iter().map(|d| d.copy(Role::Activation).map(Some)).collect::<Result<_>>()?;
        Ok((ran.saved, douts))
    }

    fn backward(&self, (saved, douts): Ready) -> Result<()> {
        let want = |(i, spec): (usize, &Spec)| match self.needs.has(i) {
            true => Want::New(spec.dtype, Role::Activation),
            false => Want::No,
        };
        let wants = self.specs.iter().enumerate().map(want).collect();
        run::backward(&*self.case.op, &"".into(), &self.specs, saved, douts, wants)?;
        Ok(())
    }
}

/// A buffer of random contents, the first [`DRAWN`] of them again and again; listed values as they are.
fn drawn(fill: &Fill, spec: Spec, device: &Device, random: &mut Random) -> Result<Buffer> {
    let n = spec.elements();
    let values = match fill {
        Fill::Values(_) => fill.values(n, random),
        _ => fill.values(n.min(DRAWN), random),
    };
    if spec.dtype == DType::U32 {
        return repeated(device, spec, values.iter().map(|v| *v as u32).collect());
    }
    real!(spec.dtype, T => repeated::<T>(device, spec, values.iter().map(|v| T::from_f64(*v)).collect()))
}

fn repeated<T: Element>(device: &Device, spec: Spec, block: Vec<T>) -> Result<Buffer> {
    let n = spec.elements();
    let mut all = Vec::with_capacity(n);
    while all.len() < n {
        all.extend_from_slice(&block[..block.len().min(n - all.len())]);
    }
    Buffer::from_slice(device, spec.dims(), &all, Role::Weight)
}

/// Overwrites what caches hold.
struct Flush(Buffer);

impl Flush {
    fn new(device: &Device, effort: Effort) -> Result<Self> {
        Ok(Flush(device.alloc(Spec::new(DType::F32, [effort.flush_bytes / 4]), Role::Workspace)?))
    }

    fn run(&mut self) -> Result<()> {
        self.0.fill_zero()
    }
}

/// A copy: what memory can do at best.
#[derive(Debug)]
struct Copy;

impl Op for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x] = take(self.name(), ins)?;
        Ok(Shapes::new([x]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        Ok(Made::outs([io.input(0).copy(Role::Activation)?]))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        Cost { flops: 0, bytes: 2 * ins[0].bytes() as u64 }
    }
}
