//! What holds for every op of the catalogue, whatever it computes: the plan counts the bytes that the CPU counts, and
//! inputs that do not fit are an error, not a panic.
#![allow(clippy::unwrap_used)]

use kernels::check::large::{self, Scale};
use kernels::check::{Case, CaseKind, Of};
use kernels::op::Want;
use kernels::{Buffer, CATALOGUE, DType, Device, Needs, Op, Role, Spec, run};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Live and peak bytes after forward, and after backward.
fn bytes(case: &Case, device: &Device, dtype: DType) -> [usize; 4] {
    let ins = case.buffers(device, dtype, &case.values(1)).unwrap();
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let wanted = |i: &usize| case.ins[*i].of != Of::U32 && case.op.differentiable(*i);
    let needs = Needs((0..ins.len()).filter(wanted).map(|i| 1 << i).sum());
    let live = || Role::ALL.iter().map(|&role| device.live_bytes(role)).sum();
    let ran = run::forward(case.op.as_ref(), ins, needs).unwrap();
    let forward = [live(), device.peak_bytes()];
    if !needs.any() {
        return [forward[0], forward[1], 0, 0];
    }
    let dout = |out: &Buffer| Some(Buffer::zeros(device, out.spec(), Role::Activation).unwrap());
    let douts = ran.outs.iter().map(dout).collect();
    drop(ran.outs);
    let want = |(i, spec): (usize, &Spec)| match needs.has(i) {
        true => Want::New(spec.dtype.acc(), Role::Gradient),
        false => Want::No,
    };
    let wants = specs.iter().enumerate().map(want).collect();
    let grads = run::backward(case.op.as_ref(), &"".into(), &specs, ran.saved, douts, wants).unwrap();
    let backward = [live(), device.peak_bytes()];
    drop(grads);
    assert_eq!(live(), 0, "{}: everything is given back", case.op.name());
    [forward[0], forward[1], backward[0], backward[1]]
}

#[test]
fn the_plan_counts_the_bytes_of_the_cpu() {
    for entry in CATALOGUE {
        for case in (entry.cases)().iter().filter(|c| c.kind != CaseKind::Bench) {
            for dtype in [DType::F32, DType::Bf16] {
                let plan = bytes(case, &Device::plan(), dtype);
                let cpu = bytes(case, &Device::cpu(), dtype);
                assert_eq!(plan, cpu, "{}/{} in {dtype}", entry.name, case.name);
            }
        }
    }
}

#[test]
fn every_op_has_sizes_that_fill_a_gpu() {
    for entry in CATALOGUE {
        let [full, small] = [Scale::Full, Scale::Smoke].map(|scale| large::cases(entry.name, scale));
        let names = |cases: &[Case]| cases.iter().map(|case| case.name.clone()).collect::<Vec<_>>();
        assert!(!full.is_empty(), "{} has none", entry.name);
        assert_eq!(names(&full), names(&small), "{}", entry.name);
        let own = (entry.cases)();
        let mut all: Vec<&str> = full.iter().chain(&own).map(|case| case.name.as_str()).collect();
        all.sort();
        let repeated = all.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(repeated, None, "{}: a profiler is pointed at one case by its name", entry.name);
        let elements = |case: &Case| case.specs(DType::Bf16).iter().map(Spec::elements).sum::<usize>();
        for (case, small) in full.iter().zip(&small) {
            case.op.infer(&case.specs(DType::Bf16)).unwrap();
            assert!(elements(case) >= 1 << 20, "{}/{} is no large case", entry.name, case.name);
            assert!(elements(small) <= 1 << 20, "{}/{} is no small case", entry.name, case.name);
        }
    }
}

/// The specs of a case with one of them changed: another type, a dimension more, less, longer, or empty.
fn misfits(specs: &[Spec]) -> Vec<Vec<Spec>> {
    let mut all = vec![vec![], specs[1..].to_vec(), [specs, &specs[..1]].concat()];
    for (i, spec) in specs.iter().enumerate() {
        let dims = spec.dims();
        let mut changed = vec![spec.with_dims([]), spec.with_dims([spec.elements()])];
        for dtype in [DType::F32, DType::Bf16, DType::F16, DType::F64, DType::U32] {
            changed.push(spec.with_dtype(dtype));
        }
        if dims.len() < kernels::spec::MAX_RANK {
            changed.push(spec.with_dims([&[1], dims].concat()));
        }
        for d in 0..dims.len() {
            for new in [0, 1, dims[d] + 1] {
                let mut dims = dims.to_vec();
                dims[d] = new;
                changed.push(spec.with_dims(dims));
            }
        }
        all.extend(changed.into_iter().map(|spec| {
            let mut specs = specs.to_vec();
            specs[i] = spec;
            specs
        }));
    }
    all
}

/// Infers, and runs what `infer` lets through, on zeros. An error is as good as a result.
fn attempt(op: &dyn Op, specs: &[Spec]) {
    if let Err(error) = op.infer(specs) {
        assert!(error.to_string().starts_with(op.name()), "{error}");
        return;
    }
    let device = Device::cpu();
    let ins: Vec<Buffer> =
        specs.iter().map(|s| Buffer::zeros(&device, *s, Role::Activation).unwrap()).collect();
    let _ = run::forward(op, ins, Needs::default());
}

#[test]
fn inputs_that_do_not_fit_are_an_error() {
    let mut failures = vec![];
    for entry in CATALOGUE {
        for case in (entry.cases)().iter().filter(|c| c.kind == CaseKind::Check) {
            for specs in misfits(&case.specs(DType::F32)) {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| attempt(case.op.as_ref(), &specs))) {
                    let words = panic.downcast_ref::<String>().cloned();
                    failures.push(format!("{:?} {specs:?}: {words:?}", case.op));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} panics\n{}", failures.len(), failures.join("\n"));
}
