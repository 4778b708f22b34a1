//! The kinds of jobs and the documents through which the interface that submits them and the worker that runs them
//! understand each other. They are stored: a release may add members, and must go on reading those of the one before.

use serde::{Deserialize, Serialize};

/// Kind of a job that made a map; done at once by the interface itself.
pub const SYNTHETIC: &str = "synthetic";
/// Kind of a job that fits a lens to the map of a [`SYNTHETIC`] job.
pub const FIT: &str = "fit";

/// Input of a [`FIT`] job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FitParams {
    /// The job whose map is to be analysed.
    pub source_job_id: String,
}

/// What a fit must know about a map: members of the `metadata` of a [`SYNTHETIC`] job's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapMetadata {
    /// Pixels on a side.
    pub grid_size: usize,
    /// Half the side of the map in kpc.
    pub half_width_kpc: f64,
    /// Redshift of the lens.
    pub z_lens: f64,
    /// Redshift of the source.
    pub z_source: f64,
}
