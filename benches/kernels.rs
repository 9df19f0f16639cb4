//! Time of every op of the catalogue at sizes that NeVA runs: `cargo bench --bench kernels -- gemm`.
//!
//! One thread pool of all cores (`RAYON_NUM_THREADS` sets how many), the instructions that `NEVA_CPU` says. Criterion
//! prints a throughput beside each time: floating-point operations where there are more than ten of them to a byte,
//! else bytes, each input read once and each output written once, as the op itself counts them.
#![allow(clippy::unwrap_used)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kernels::check::{Case, CaseKind, Of};
use kernels::op::{Cost, Run, Want};
use kernels::{Buffer, CATALOGUE, DType, Device, Needs, Role, run};

fn every_op(c: &mut Criterion) {
    for entry in CATALOGUE {
        for case in (entry.cases)().iter().filter(|case| case.kind == CaseKind::Bench) {
            for dtype in [DType::F32, DType::Bf16] {
                one(c, entry.name, entry.passes.contains("backward"), case, dtype);
            }
        }
    }
}

fn one(c: &mut Criterion, name: &str, has_backward: bool, case: &Case, dtype: DType) {
    let device = Device::cpu();
    let specs = case.specs(dtype);
    let values = case.buffers(&device, dtype, &case.values(1)).unwrap();
    // Ops that work in place get bytes of their own, as the last holder does in a model.
    let fresh = || values.iter().map(|b| b.copy(Role::Activation).unwrap()).collect::<Vec<Buffer>>();
    let differentiable = |i: usize| case.ins[i].of != Of::U32 && case.op.differentiable(i);
    let wanted: Vec<bool> = (0..specs.len()).map(|i| has_backward && differentiable(i)).collect();
    let needs = Needs(wanted.iter().enumerate().map(|(i, w)| (*w as u32) << i).sum());

    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    group.throughput(throughput(case.op.cost(&specs, Run::Forward)));
    group.bench_function(format!("forward {dtype} {}", case.name), |b| {
        b.iter_batched(fresh, |ins| run::forward(&*case.op, ins, needs).unwrap(), BatchSize::PerIteration)
    });
    if has_backward {
        group.throughput(throughput(case.op.cost(&specs, Run::Backward(needs))));
        group.bench_function(format!("backward {dtype} {}", case.name), |b| {
            let setup = || {
                let ran = run::forward(&*case.op, fresh(), needs).unwrap();
                let douts = ran.outs.iter().map(|out| {
                    let ones = vec![1.0; out.spec().elements()];
                    Some(Buffer::from_f64(&device, out.spec(), &ones, Role::Activation).unwrap())
                });
                let douts = douts.collect::<Vec<_>>();
                let want = |w: &bool| if *w { Want::New(dtype, Role::Activation) } else { Want::No };
                (ran.saved, douts, wanted.iter().map(want).collect::<Vec<_>>())
            };
            let backward = |(saved, douts, wants)| {
                run::backward(&*case.op, &"".into(), &specs, saved, douts, wants).unwrap()
            };
            b.iter_batched(setup, backward, BatchSize::PerIteration)
        });
    }
    group.finish();
}

fn throughput(cost: Cost) -> Throughput {
    if cost.flops > 10 * cost.bytes {
        Throughput::Elements(cost.flops)
    } else {
        Throughput::Bytes(cost.bytes)
    }
}

criterion_group!(benches, every_op);
criterion_main!(benches);
