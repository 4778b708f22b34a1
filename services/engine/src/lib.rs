//! Recovers the parameters of a lens from its convergence map: the request, the answer, and the least-squares engine.
//!
//! The inference service answers with it over HTTP and the worker runs it embedded, so both give the same answer. It
//! does not know HTTP or the queue; equal requests give equal answers.

pub mod job;
mod predict;

use serde::Serialize;

pub use predict::{Errors, Parameters, PredictRequest, Prediction, check_redshifts, predict};

/// Name of the least-squares engine.
pub const NAME: &str = "nfw-least-squares";

/// What clients are told about an engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// Its version: that of this package.
    pub version: &'static str,
    /// How it works.
    pub engine: &'static str,
    /// Its numbers.
    pub precision: &'static str,
    /// Least and greatest side of a map in pixels.
    pub input_size: [usize; 2],
    /// What it recovers.
    pub output_parameters: [&'static str; 4],
    /// Whether it can be used now.
    pub loaded: bool,
}

/// The engines of this release.
pub fn models() -> Vec<Model> {
    let side = lensing::limits::ANALYSED_SIDE;
    vec![Model {
        name: NAME,
        version: env!("CARGO_PKG_VERSION"),
        engine: NAME,
        precision: "f64",
        input_size: [*side.start(), *side.end()],
        output_parameters: ["mass", "scale_radius", "ellipticity", "position_angle"],
        loaded: true,
    }]
}
