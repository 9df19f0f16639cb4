//! The device that a command line names.

use crate::{Error, Result};
use engine::Device;
use kernels::Error as KernelError;

/// Opens the device called `name`: `cpu`, `cuda`, `cuda:N`, or `auto`, which is `cuda` where there is a CUDA driver
/// with a device and all else that computing on it needs, and `cpu` elsewhere. If there is a device but something
/// else is missing, a line on stderr says what.
///
/// # Errors
/// Another name; no driver (the places that were searched are listed); no such device.
pub fn open(name: &str) -> Result<Device> {
    if name == "auto" {
        let device = match Device::gpu(0) {
            Ok(device) => device,
            Err(KernelError::NoCuda { .. } | KernelError::NoDevice) => return Ok(Device::cpu()),
            Err(e) => return Err(e.into()),
        };
        return Ok(match device.ready() {
            Ok(()) => device,
            Err(e) => {
                eprintln!("{device} is not used: {e}");
                Device::cpu()
            }
        });
    }
    if name == "cpu" {
        return Ok(Device::cpu());
    }
    Ok(Device::gpu(ordinal(name)?)?)
}

/// Whether `name` is one that [`open`] takes.
///
/// # Errors
/// Another name.
pub fn check(name: &str) -> Result<()> {
    if matches!(name, "auto" | "cpu") { Ok(()) } else { ordinal(name).map(|_| ()) }
}

/// The N of `cuda:N`, and 0 for `cuda`.
fn ordinal(name: &str) -> Result<usize> {
    let number = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
        None => None,
    };
    number.ok_or_else(|| Error::Usage(format!("--device: expected cpu, cuda, cuda:N or auto, got {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_devices_or_refused() {
        assert_eq!(open("cpu").map(|d| d.to_string()).ok(), Some("cpu".into()));
        assert_eq!(ordinal("cuda").ok(), Some(0));
        assert_eq!(ordinal("cuda:3").ok(), Some(3));
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda3", "cuda:-1", ""] {
            assert!(ordinal(wrong).is_err(), "{wrong}");
        }
    }
}
