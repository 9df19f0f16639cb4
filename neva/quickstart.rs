//! `neva quickstart`: from nothing to answers about pictures, in under three minutes on two cores and without a
//! network. It draws the data and trains the tokenizer; everything else is what `neva train`, `neva eval` and
//! `neva generate` do, with the same configurations.

use crate::config::Config;
use crate::eval::{self, Answered, Score};
use crate::generate::Answerer;
use crate::report::{self, Curve};
use crate::sampling::Sampling;
use crate::scenes::{self, Scenes};
use crate::tokenizer;
use crate::train::{self, Summary};
use crate::{Error, Result};
use engine::Device;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The configurations, equal to the files of these names in `configs/`.
pub const PRETRAIN: (&str, &str) =
    ("configs/quickstart_pretrain.yaml", include_str!("../configs/quickstart_pretrain.yaml"));
/// Phase 2.
pub const FINETUNE: (&str, &str) =
    ("configs/quickstart_finetune.yaml", include_str!("../configs/quickstart_finetune.yaml"));

const TRAIN_IMAGES: usize = 10_000;
const HELD_OUT_IMAGES: usize = 400;
const VOCABULARY: usize = 512;
const SEED: u64 = 1;
/// What it came to.
pub struct Outcome {
    /// Right answers about held-out drawings.
    pub score: Score,
    /// Of those that show a colour and a shape never seen together.
    pub unseen: Score,
    /// With the pictures exchanged among the questions.
    pub blind: Score,
    /// All of it.
    pub seconds: f64,
}

impl Outcome {
    /// The last line printed.
    pub fn to_json(&self) -> Value {
        json!({
            "accuracy": self.score.accuracy(),
            "unseen_accuracy": self.unseen.accuracy(),
            "blind_accuracy": self.blind.accuracy(),
            "seconds": (self.seconds * 10.0).round() / 10.0,
        })
    }
}

/// Runs it on a device into the directory `out`, telling what it does through `say`.
pub fn run(
    device: &Device,
    out: &Path,
    stop: &(dyn Fn(u64) -> bool + Sync),
    say: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Outcome> {
    let start = Instant::now();
    if out.exists() && fs::read_dir(out).map_err(Error::io(out))?.next().is_some() {
        let message = format!("{}: exists and is not empty; give another --out", out.display());
        return Err(Error::Usage(message));
    }
    fs::create_dir_all(out).map_err(Error::io(out))?;

    say(&format!("Drawing {TRAIN_IMAGES} pictures to learn from and {HELD_OUT_IMAGES} to be asked about."))?;
    let scenes = scenes::write(&out.join("scenes"), TRAIN_IMAGES, HELD_OUT_IMAGES, SEED)?;
    let tokenizer_dir = out.join("tokenizer");
    fs::create_dir_all(&tokenizer_dir).map_err(Error::io(&tokenizer_dir))?;
    let texts = fs::read_to_string(&scenes.texts).map_err(Error::io(&scenes.texts))?;
    tokenizer::train(texts.lines(), VOCABULARY, &[])?.save(&tokenizer_dir)?;

    say(
        "\nPhase 1, captions. In NeVA the projector alone learns here; nothing is pretrained, so all parts do:",
    )?;
    let pretrained = phase(device, PRETRAIN, &pretrain_overrides(out, &scenes), stop, say)?;
    say("\nPhase 2, questions:")?;
    let model = pretrained.checkpoint.clone();
    let finetuned = phase(device, FINETUNE, &finetune_overrides(out, &scenes, &model), stop, say)?;

    let answerer = Answerer::load(device, &finetuned.checkpoint, None)?;
    let ask = |blind: bool| -> Result<Vec<Answered>> {
        let options = eval::Options {
            data: scenes.held_out.clone(),
            image_folder: scenes.image_folder.clone(),
            limit: None,
            blind,
            max_new_tokens: 8,
            batch: eval::BATCH,
        };
        let mut all = vec![];
        eval::run(&answerer, &options, &mut |answered| {
            all.push(answered);
            Ok(())
        })?;
        Ok(all)
    };
    let answered = ask(false)?;
    let score = score(&answered, |_| true);
    let unseen = self::score(&answered, |a| a.record.contains(scenes::UNSEEN));
    let blind = self::score(&ask(true)?, |_| true);
    say(&format!(
        "\n{} questions about {HELD_OUT_IMAGES} drawings it never saw: {:.1} % right.\n\
         {} of them about colours and shapes never seen together: {:.1} % right.\n\
         With the pictures exchanged among the questions: {:.1} % right. It looks at the picture.",
        score.questions,
        100.0 * score.accuracy(),
        unseen.questions,
        100.0 * unseen.accuracy(),
        100.0 * blind.accuracy(),
    ))?;

    let example = answered.first().expect("there are held-out drawings");
    let image = scenes.image_folder.join(&example.images[0]);
    let sampling = Sampling { max_new_tokens: 8, ..answerer.greedy() };
    let prompt = answerer.prompt(&example.question, std::slice::from_ref(&image))?;
    let answer = answerer.answer(&[prompt], &sampling, &mut |_, _| Ok(()))?.remove(0);
    say(&format!(
        "\nneva generate --model {} --image {} --prompt '{}'\n{answer}",
        finetuned.checkpoint.display(),
        image.display(),
        example.question
    ))?;

    let page = out.join("report.html");
    let curves = [
        curve("Phase 1: captions", &out.join("pretrain"))?,
        curve("Phase 2: questions", &out.join("finetune"))?,
    ];
    let lines = [
        format!("Held-out accuracy {:.1} %", 100.0 * score.accuracy()),
        format!("Colours and shapes never seen together {:.1} %", 100.0 * unseen.accuracy()),
        format!("Pictures exchanged {:.1} %", 100.0 * blind.accuracy()),
    ];
    let html = report::page("NeVA quickstart", &lines, &curves, &answered, &scenes.image_folder)?;
    fs::write(&page, html).map_err(Error::io(&page))?;
    say(&format!("\nCurves and pictures with answers: {}", page.display()))?;
    Ok(Outcome { score, unseen, blind, seconds: start.elapsed().as_secs_f64() })
}

fn score(answered: &[Answered], of: impl Fn(&Answered) -> bool) -> Score {
    let mut score = Score::default();
    answered.iter().filter(|a| of(a)).for_each(|a| score.add(a));
    score
}

fn phase(
    device: &Device,
    (name, text): (&str, &str),
    overrides: &[String],
    stop: &(dyn Fn(u64) -> bool + Sync),
    say: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Summary> {
    say(&format!("neva train {name} {}", overrides.join(" ")))?;
    let config = Config::parse(name, text, overrides)?;
    let summary = train::run_on(device, &config, stop)?;
    if summary.steps < config.trainer.max_steps {
        return Err(Error::Usage(format!(
            "stopped after {} of {} steps",
            summary.steps, config.trainer.max_steps
        )));
    }
    Ok(summary)
}

fn pretrain_overrides(out: &Path, scenes: &Scenes) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    vec![
        format!("exp_manager.explicit_log_dir={}", text(&out.join("pretrain"))),
        format!("model.tokenizer.model={}", text(&out.join("tokenizer/tokenizer.model"))),
        format!("model.data.data_path={}", text(&scenes.captions)),
        format!("model.data.image_folder={}", text(&scenes.image_folder)),
    ]
}

fn finetune_overrides(out: &Path, scenes: &Scenes, model: &Path) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    vec![
        format!("exp_manager.explicit_log_dir={}", text(&out.join("finetune"))),
        format!("model.restore_from_path={}", text(model)),
        format!("model.data.data_path={}", text(&scenes.train)),
        format!("model.data.image_folder={}", text(&scenes.image_folder)),
    ]
}

/// The losses of a run.
fn curve(title: &str, run: &Path) -> Result<Curve> {
    let path: PathBuf = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let points = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|v| Some((v["step"].as_f64()?, v["loss"].as_f64()?)))
        .collect();
    Ok(Curve { title: title.into(), points })
}
