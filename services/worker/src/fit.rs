//! Runs one fit: reads the map of the source job, has it analysed, gives the result. It does not know leases.

use engine::job::{FitParams, MapMetadata};
use engine::{PredictRequest, predict};
use serde_json::Value;
use store::{Claim, JobResult, Store, StoreError};

use crate::config::Inference;
use crate::remote::Remote;

/// Where maps are analysed.
#[derive(Debug)]
pub enum Engine {
    /// On a thread of this process.
    Embedded,
    /// By the inference service.
    Remote(Remote),
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Trying again may help.
    Passing(String),
    /// Nobody has worked on the job, through no fault of its own: the inference service is away.
    Unavailable(String),
    /// The job itself is wrong.
    Lasting(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Passing(format!("{:#}", anyhow::Error::from(error)))
    }
}

impl Engine {
    /// The engine that the settings ask for.
    pub fn new(inference: &Inference) -> Self {
        match inference {
            Inference::Embedded => Self::Embedded,
            Inference::Remote { url, timeout } => Self::Remote(Remote::new(url, *timeout)),
        }
    }

    async fn predict(&self, job: &str, request: PredictRequest) -> Result<Value, Failure> {
        match self {
            Self::Remote(remote) => remote.predict(job, &request).await,
            Self::Embedded => tokio::task::spawn_blocking(move || embedded(&request))
                .await
                .map_err(|error| Failure::Passing(format!("computing broke off: {error}")))?,
        }
    }
}

/// Runs a claimed fit.
pub(crate) async fn run(store: &Store, engine: &Engine, claim: &Claim) -> Result<JobResult, Failure> {
    let params: FitParams = read(&claim.params, "params")?;
    let source = params.source_job_id.parse();
    let source = source.map_err(|_| Failure::Lasting("source_job_id is not a job id".to_owned()))?;
    let map = store.result(source).await?;
    let map = map.ok_or_else(|| Failure::Lasting(format!("job {source} has no result")))?;
    let request = predict_request(map)?;
    let document = engine.predict(&claim.lease.job.to_string(), request).await?;
    Ok(JobResult { document, data: None })
}

fn predict_request(map: JobResult) -> Result<PredictRequest, Failure> {
    let metadata: MapMetadata = read(&map.document["metadata"], "metadata of the map")?;
    let data = map.data.unwrap_or_default();
    if metadata.grid_size == 0 || data.len() != metadata.grid_size * metadata.grid_size {
        return Err(Failure::Lasting(format!("the map has {} values, not a square", data.len())));
    }
    Ok(PredictRequest {
        convergence_map: data.chunks(metadata.grid_size).map(<[f64]>::to_vec).collect(),
        half_width_kpc: metadata.half_width_kpc,
        z_lens: metadata.z_lens,
        z_source: metadata.z_source,
    })
}

fn embedded(request: &PredictRequest) -> Result<Value, Failure> {
    let prediction = predict(request).map_err(|violations| {
        let texts: Vec<_> =
            violations.as_slice().iter().map(|v| format!("{} {}", v.pointer, v.message)).collect();
        Failure::Lasting(texts.join("; "))
    })?;
    serde_json::to_value(prediction).map_err(|error| Failure::Lasting(error.to_string()))
}

fn read<T: serde::de::DeserializeOwned>(value: &Value, what: &str) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| Failure::Lasting(format!("{what}: {error}")))
}
