//! What a person sees while training: a bar with the time left on a terminal, plain lines elsewhere, on stderr.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What one step showed.
#[derive(Debug, Clone, Copy)]
pub struct StepReport {
    /// Steps taken.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Rows (tokens and image rows) per second.
    pub tokens_per_second: f64,
}

/// Shows progress.
pub struct Progress {
    bar: Option<ProgressBar>,
    every: u64,
    first: u64,
    last: u64,
    start: Instant,
}

impl Progress {
    /// Progress from `first` steps to `last`, a line every `every` steps where there is no terminal.
    pub fn new(first: u64, last: u64, every: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} [{elapsed}, {eta} left]");
            let bar = ProgressBar::new(last).with_style(style.expect("the template is well-formed"));
            bar.set_position(first);
            bar.reset_eta();
            bar
        });
        Progress { bar, every, first, last, start: Instant::now() }
    }

    /// After each step.
    pub fn step(&self, r: &StepReport) {
        let text = format!(
            "loss {:.4} lr {:.2e} grad {:.2} {:.0} tok/s",
            r.loss, r.lr, r.grad_norm, r.tokens_per_second
        );
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.set_position(r.step);
            }
            None if r.step.is_multiple_of(self.every) || r.step == self.last => {
                let done = (r.step - self.first).max(1) as f64;
                let left = self.start.elapsed().as_secs_f64() / done * (self.last - r.step) as f64;
                eprintln!("step {}/{} {text} eta {}", r.step, self.last, clock(left));
            }
            None => {}
        }
    }

    /// A line of its own.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Ends the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds as h:mm:ss.
pub fn clock(seconds: f64) -> String {
    let s = Duration::from_secs_f64(seconds.clamp(0.0, 1e9)).as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
