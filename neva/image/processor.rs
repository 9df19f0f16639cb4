//! The two files beside a model that tell transformers how to feed it: `preprocessor_config.json` (pictures) and
//! `processor_config.json` (how many tokens a picture takes).
//!
//! | mode   | `image_processor_type` | `do_pad` | `do_center_crop` |
//! |--------|------------------------|----------|------------------|
//! | square | `CLIPImageProcessor`   |          | true             |
//! | pad    | `LlavaImageProcessor`  | true     | true             |
//! | keep   | `CLIPImageProcessor`   |          | false            |

use std::path::Path;

use serde_json::{Map, Value, json};

use super::preprocess::{CLIP_MEAN, CLIP_STD, Mode, Preprocess};
use crate::error::one_line;
use crate::json::shorten;
use crate::{Error, Result};

/// Pillow's number of its bicubic filter.
const BICUBIC: u64 = 3;

impl Preprocess {
    /// The content of `preprocessor_config.json`.
    pub fn to_json(&self) -> Value {
        let mut config = json!({
            "crop_size": { "height": self.size, "width": self.size },
            "do_center_crop": self.mode != Mode::Keep,
            "do_convert_rgb": true,
            "do_normalize": true,
            "do_rescale": true,
            "do_resize": true,
            "image_mean": self.mean,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": self.std,
            "resample": BICUBIC,
            "rescale_factor": 1.0 / 255.0,
            "size": { "shortest_edge": self.size },
        });
        if self.mode == Mode::Pad {
            config["image_processor_type"] = "LlavaImageProcessor".into();
            config["do_pad"] = true.into();
        }
        config
    }

    /// Reads what [`Preprocess::to_json`] or transformers wrote, also the older forms in which sizes are plain numbers.
    /// `path` is named in errors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the key, when the file asks for anything that [`Preprocess::apply`] does not do.
    pub fn from_json(config: &Value, path: &Path) -> Result<Self> {
        let keys = Keys::new(config, path)?;
        let kind = keys.text("image_processor_type")?.or(keys.text("feature_extractor_type")?);
        let can_pad = match kind.unwrap_or("CLIPImageProcessor").trim_end_matches("Fast") {
            "CLIPImageProcessor" | "CLIPFeatureExtractor" => false,
            "LlavaImageProcessor" => true,
            other => {
                return Err(keys.wrong(
                    "image_processor_type",
                    format!("is {other}, expected CLIPImageProcessor or LlavaImageProcessor"),
                ));
            }
        };
        for key in ["do_resize", "do_rescale", "do_normalize", "do_convert_rgb"] {
            if !keys.flag(key, true)? {
                return Err(keys.wrong(key, "is false, expected true".into()));
            }
        }
        if let Some(resample) = keys.get("resample").filter(|v| v.as_u64() != Some(BICUBIC)) {
            return Err(keys.wrong("resample", format!("is {resample}, expected {BICUBIC} (bicubic)")));
        }
        let factor = keys.number("rescale_factor", 1.0 / 255.0)?;
        if (factor * 255.0 - 1.0).abs() > 1e-9 {
            return Err(keys.wrong("rescale_factor", format!("is {factor}, expected 1/255")));
        }
        let size = keys.size("size", &["shortest_edge"])?.unwrap_or(224);
        let crop = keys.size("crop_size", &["height", "width"])?.unwrap_or(size);
        let mode = match (can_pad && keys.flag("do_pad", false)?, keys.flag("do_center_crop", true)?) {
            (true, _) => Mode::Pad,
            (false, true) => Mode::Square,
            (false, false) => Mode::Keep,
        };
        if mode != Mode::Keep && crop != size {
            return Err(keys.wrong("crop_size", format!("is {crop}, expected {size} as size says")));
        }
        let mean = keys.triple("image_mean", CLIP_MEAN)?;
        if let Some(bad) = mean.iter().find(|v| !(0.0..=1.0).contains(*v)) {
            return Err(keys.wrong("image_mean", format!("has {bad}, expected values in 0..=1")));
        }
        let std = keys.triple("image_std", CLIP_STD)?;
        if let Some(bad) = std.iter().find(|v| **v <= 0.0) {
            return Err(keys.wrong("image_std", format!("has {bad}, expected positive values")));
        }
        Ok(Self { size, mode, mean, std })
    }
}

/// The content of `processor_config.json`: what transformers needs to expand an image token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Side of a patch of the tower, in pixels.
    pub patch_size: usize,
    /// `default` drops the class token's feature, `full` keeps it.
    pub vision_feature_select_strategy: String,
    /// Tokens of the tower beside its patches: 1 for a class token.
    pub num_additional_image_tokens: usize,
    /// The text that stands for a picture.
    pub image_token: String,
}

impl Processor {
    /// The content of `processor_config.json`.
    pub fn to_json(&self) -> Value {
        json!({
            "image_token": self.image_token,
            "num_additional_image_tokens": self.num_additional_image_tokens,
            "patch_size": self.patch_size,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": self.vision_feature_select_strategy,
        })
    }

    /// Reads what [`Processor::to_json`] or transformers wrote; `path` is named in errors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the key.
    pub fn from_json(config: &Value, path: &Path) -> Result<Self> {
        let keys = Keys::new(config, path)?;
        let strategy = keys.text("vision_feature_select_strategy")?.unwrap_or("default");
        if !["default", "full"].contains(&strategy) {
            return Err(keys.wrong(
                "vision_feature_select_strategy",
                format!("is {strategy:?}, expected \"default\" or \"full\""),
            ));
        }
        let patch_size =
            keys.size("patch_size", &[])?.ok_or_else(|| keys.wrong("patch_size", "is missing".into()))?;
        let additional = match keys.get("num_additional_image_tokens") {
            None => 0,
            Some(value) => value.as_u64().filter(|&n| n <= 1024).ok_or_else(|| {
                keys.wrong(
                    "num_additional_image_tokens",
                    format!("is {value}, expected a small whole number"),
                )
            })? as usize,
        };
        Ok(Self {
            patch_size,
            vision_feature_select_strategy: strategy.into(),
            num_additional_image_tokens: additional,
            image_token: keys.text("image_token")?.unwrap_or("<image>").into(),
        })
    }
}

/// The keys of one JSON object, with errors that name the file and the key. A key that is null counts as missing.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    fn new(config: &'a Value, path: &'a Path) -> Result<Self> {
        let object = config.as_object().ok_or_else(|| Error::Checkpoint {
            path: path.into(),
            message: "expected a JSON object".into(),
        })?;
        Ok(Self { object, path })
    }

    fn wrong(&self, key: &str, message: String) -> Error {
        Error::Checkpoint { path: self.path.into(), message: one_line(format!("{key} {message}")) }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|v| {
                v.as_str()
                    .ok_or_else(|| self.wrong(key, format!("is {}, expected a string", shorten(v.clone()))))
            })
            .transpose()
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| {
            v.as_bool()
                .ok_or_else(|| self.wrong(key, format!("is {}, expected true or false", shorten(v.clone()))))
        })
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key).map_or(Ok(default), |v| {
            v.as_f64().ok_or_else(|| self.wrong(key, format!("is {}, expected a number", shorten(v.clone()))))
        })
    }

    fn triple(&self, key: &str, default: [f64; 3]) -> Result<[f64; 3]> {
        self.get(key).map_or(Ok(default), |v| {
            let numbers: Option<Vec<f64>> =
                v.as_array().and_then(|values| values.iter().map(Value::as_f64).collect());
            numbers
                .and_then(|numbers| numbers.try_into().ok())
                .ok_or_else(|| self.wrong(key, format!("is {}, expected three numbers", shorten(v.clone()))))
        })
    }

    /// A side in pixels: a plain number, or an object that has exactly the keys `sides`, all with one value.
    fn size(&self, key: &str, sides: &[&str]) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let side = match value {
            Value::Object(object) if !sides.is_empty() => {
                let side = object.get(sides[0]);
                let exact = object.len() == sides.len() && sides.iter().all(|name| object.get(*name) == side);
                side.filter(|_| exact).and_then(Value::as_u64)
            }
            other => other.as_u64(),
        };
        match side {
            Some(side @ 1..=16384) => Ok(Some(side as usize)),
            _ => {
                let named =
                    if sides.is_empty() { String::new() } else { format!(" as {}", sides.join(" = ")) };
                Err(self.wrong(
                    key,
                    format!("is {}, expected one side of 1 to 16384 pixels{named}", shorten(value.clone())),
                ))
            }
        }
    }
}
