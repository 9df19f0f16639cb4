//! Trainer state beside a model: where training stands, and what the optimiser keeps.
//!
//! Nothing else is needed for an exact resume: the order of the data, dropout and the learning rate are functions
//! of the seed and the step.

use crate::checkpoint::{Outgoing, Tensors, write_json, write_tensors};
use crate::{Error, Result, json};
use engine::{AdamW, Buffer, Device, Param, Role, Spec, State};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where training stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Optimiser steps taken.
    pub step: u64,
    /// The validation loss at this step, if there was a validation.
    pub val_loss: Option<f64>,
    /// The training loss of the last step.
    pub loss: f64,
}

const OPTIMIZER: &str = "optimizer.safetensors";

/// What the optimiser keeps of a parameter, as the ends of its tensors' names.
const KINDS: [&str; 3] = ["m", "v", "master"];

/// Writes the folder `trainer` into a model directory that is being made.
pub fn write(dir: &Path, position: Position, optimizer: &AdamW) -> Result<()> {
    let dir = dir.join("trainer");
    fs::create_dir(&dir).map_err(Error::io(&dir))?;
    let mut tensors = BTreeMap::new();
    for (param, state) in optimizer.states() {
        let Some(State { master, m, v }) = state else { continue };
        let mut put = |kind: &str, buffer: &Buffer| {
            tensors.insert(format!("{}.{kind}", param.name()), Outgoing::buffer(buffer.clone()));
        };
        put("m", m);
        put("v", v);
        if let Some(master) = master {
            put("master", master);
        }
    }
    write_tensors(&dir.join(OPTIMIZER), &tensors)?;
    let json = json!({"step": position.step, "val_loss": position.val_loss, "loss": position.loss});
    write_json(&dir.join("state.json"), &json)
}

/// Where a checkpoint stands.
pub fn read_position(checkpoint: &Path) -> Result<Position> {
    let path = checkpoint.join("trainer/state.json");
    let json = json::read(&path)?;
    let bad = |key: &str, expected: &str| {
        let message = format!("{key}: is {}, expected {expected}", json::shorten(json[key].clone()));
        Error::Checkpoint { path: path.clone(), message }
    };
    let step = json["step"].as_u64().ok_or_else(|| bad("step", "a whole number"))?;
    let named = checkpoint.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("step-"));
    if let Some(named) = named.and_then(|n| n.parse::<u64>().ok()).filter(|n| *n != step) {
        return Err(bad("step", &format!("{named} as the directory's name says")));
    }
    // What is not finite is null in JSON.
    let number = |key: &str| match &json[key] {
        Value::Null => Ok(None),
        value => value.as_f64().map(Some).ok_or_else(|| bad(key, "a number or null")),
    };
    Ok(Position { step, val_loss: number("val_loss")?, loss: number("loss")?.unwrap_or(f64::NAN) })
}

/// Puts an optimiser where a checkpoint left it.
pub fn restore(checkpoint: &Path, device: &Device, optimizer: &mut AdamW) -> Result<Position> {
    let position = read_position(checkpoint)?;
    let dir = checkpoint.join("trainer");
    let tensors = Tensors::open_files(&dir, vec![dir.join(OPTIMIZER)])?;
    let load = |param: &Param, kind: &str| -> Result<Buffer> {
        let name = format!("{}.{kind}", param.name());
        let entry = tensors.find(std::slice::from_ref(&name))?;
        let spec = Spec::new(param.grad_dtype(), param.spec().dims());
        if entry.dims != spec.dims() || entry.dtype != spec.dtype {
            let message = format!("{name}: has {:?} {:?}, expected {spec}", entry.dtype, entry.dims);
            return Err(Error::Checkpoint { path: dir.join(OPTIMIZER), message });
        }
        let mut buffer = device.alloc(spec, Role::Optimizer)?;
        buffer.copy_from_host(tensors.bytes(entry))?;
        Ok(buffer)
    };
    let states = optimizer
        .states()
        .map(|(param, _)| {
            if !KINDS.iter().any(|kind| tensors.has(&format!("{}.{kind}", param.name()))) {
                return Ok(None); // it had no gradient yet
            }
            let narrow = param.spec().dtype != param.grad_dtype();
            let master = narrow.then(|| load(param, "master")).transpose()?;
            Ok(Some(State { master, m: load(param, "m")?, v: load(param, "v")? }))
        })
        .collect::<Result<Vec<_>>>()?;
    // What is frozen now and learned before would start anew when it learns again.
    let learns = |name: &str| {
        let of = |param: &Param| KINDS.iter().any(|kind| name == format!("{}.{kind}", param.name()));
        optimizer.states().any(|(param, _)| of(param))
    };
    if let Some(name) = tensors.names().filter(|name| !learns(name)).min() {
        let message =
            format!("{name}: does not learn under this configuration; go on with what the run began with");
        return Err(Error::Checkpoint { path: dir.join(OPTIMIZER), message });
    }
    optimizer.restore(position.step, states);
    Ok(position)
}
