//! Tensor maps: how the TMA engine of a GPU (from compute capability 9.0 on) finds the tiles of a matrix.

use super::gpu::{Gpu, driver_error};
use crate::{Buffer, DType, Error, Result};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUtensorMapDataType, CUtensorMapSwizzle};
use std::mem::MaybeUninit;

/// The driver that can encode one.
const OLDEST_DRIVER: i32 = 12_000;

/// A description of a matrix and its tiles, which a kernel takes by value.
///
/// It holds the buffer's address: as for [`KernelArg`](super::gpu::KernelArg), whoever launches a kernel with it sees
/// to it that the buffer still exists.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(128))]
pub struct TensorMap([u64; 16]);

/// How 16-byte pieces change places within the rows of a tile, so that neither a row nor a column of them meets the
/// same banks of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// They stay: rows lie one behind the other.
    None,
    /// Piece `c` of row `r` lies at `c ^ r % 8`. Rows of a tile have 128 bytes.
    Bytes128,
}

impl TensorMap {
    /// For kernels that read `matrix`, of two dimensions, in tiles of `tile` rows and columns.
    ///
    /// Errors: a type or a shape that the driver refuses (rows are a multiple of 16 bytes, in the matrix and in the
    /// tile; a tile has at most 256 rows and columns), a driver older than 12.0.
    pub fn read(gpu: &Gpu, matrix: &Buffer, tile: [u32; 2], swizzle: Swizzle) -> Result<Self> {
        Self::encode(gpu, matrix, matrix.device_ptr(), tile, swizzle)
    }

    /// The same for kernels that write it.
    pub fn write(gpu: &Gpu, matrix: &mut Buffer, tile: [u32; 2], swizzle: Swizzle) -> Result<Self> {
        let address = matrix.device_ptr_mut();
        Self::encode(gpu, matrix, address, tile, swizzle)
    }

    fn encode(gpu: &Gpu, matrix: &Buffer, address: u64, tile: [u32; 2], swizzle: Swizzle) -> Result<Self> {
        const OP: &str = "tensor map";
        let &[rows, columns] = matrix.dims() else {
            return Err(Error::shape(OP, format!("{} is no matrix", matrix.spec())));
        };
        let kind = match matrix.dtype() {
            DType::F32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::U32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
            DType::F64 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        };
        let swizzle = match swizzle {
            Swizzle::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::Bytes128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        gpu.bind(OP)?;
        let mut version = 0;
        // SAFETY: every driver has this call; it writes one int.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| driver_error(OP, e))?;
        if version < OLDEST_DRIVER {
            let message = format!(
                "needs one of CUDA 12.0 or newer, this is {}.{}",
                version / 1000,
                version % 1000 / 10
            );
            return Err(Error::Driver { op: OP.into(), message });
        }
        let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
        let dims = [columns as u64, rows as u64]; // the contiguous one first, here and below
        let strides = [(columns * matrix.dtype().size()) as u64];
        let [tile_rows, tile_columns] = tile;
        // SAFETY: the driver has this call, by its version; each array has an element per dimension (strides: one
        // less), and the map is written whole if it succeeds.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                kind,
                2,
                address as *mut _,
                dims.as_ptr(),
                strides.as_ptr(),
                [tile_columns, tile_rows].as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(|e: DriverError| {
            let tile = format!("tiles of {tile_rows} x {tile_columns} of {}", matrix.spec());
            driver_error(format!("{OP} for {tile}"), e)
        })?;
        // SAFETY: written by the call above.
        Ok(TensorMap(unsafe { map.assume_init() }.opaque))
    }
}
