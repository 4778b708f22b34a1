//! `POST /api/v1/synthetic`: makes the convergence map of a lens and keeps it as a job that has succeeded.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use engine::check_redshifts;
use engine::job::{MapMetadata, SYNTHETIC};
use lensing::{Cosmology, EllipticalNfw, Grid, LensGeometry, Nfw, convergence_map, limits};
use runtime::extract::JsonBody;
use runtime::{Problem, Violations};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{JobId, JobResult, NewJob, Recorded, Timestamp};

use crate::{AppState, idempotency, store_problem};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SyntheticRequest {
    profile_type: ProfileType,
    mass: f64,
    scale_radius: f64,
    #[serde(default)]
    ellipticity: f64,
    #[serde(default)]
    position_angle: f64,
    #[serde(default = "default_grid_size")]
    grid_size: usize,
    #[serde(default = "default_half_width")]
    half_width_kpc: f64,
    #[serde(default = "default_z_lens")]
    z_lens: f64,
    #[serde(default = "default_z_source")]
    z_source: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ProfileType {
    #[serde(rename = "NFW")]
    Nfw,
    #[serde(rename = "Elliptical NFW")]
    EllipticalNfw,
}

fn default_grid_size() -> usize {
    64
}

fn default_half_width() -> f64 {
    limits::DEFAULT_HALF_WIDTH
}

fn default_z_lens() -> f64 {
    0.5
}

fn default_z_source() -> f64 {
    1.5
}

/// Everything of the answer but the job's id and the map; kept as the document of the result.
#[derive(Debug, Serialize)]
struct Document {
    metadata: Metadata,
    coordinates: Coordinates,
    coordinates_unit: &'static str,
    pixel_arcsec: f64,
    warnings: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Metadata {
    profile_type: ProfileType,
    mass: f64,
    scale_radius: f64,
    ellipticity: f64,
    axis_ratio: f64,
    position_angle: f64,
    #[serde(flatten)]
    map: MapMetadata,
    concentration: f64,
    virial_radius_kpc: f64,
    kappa_s: f64,
    scale_angle_arcsec: f64,
    critical_surface_density: f64,
    convergence_max: f64,
    convergence_mean: f64,
}

/// Pixel centres: X of the columns, Y of the rows.
#[derive(Debug, Serialize)]
struct Coordinates {
    #[serde(rename = "X")]
    x: Vec<f64>,
    #[serde(rename = "Y")]
    y: Vec<f64>,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    job_id: String,
    convergence_map: Vec<&'a [f64]>,
    #[serde(flatten)]
    document: &'a Value,
}

pub(crate) async fn create(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: JsonBody<SyntheticRequest>,
) -> Result<Response, Problem> {
    let request = body.value;
    check(&request)?;
    let idempotency = idempotency::read(&headers, &body.bytes)?;
    let making = request.clone();
    // A map of 128 pixels on a side takes milliseconds: too long for a thread that serves other connections.
    let result = tokio::task::spawn_blocking(move || make(&making))
        .await
        .map_err(|error| Problem::internal(&error))?
        .map_err(|error| Problem::internal(&error))?;
    let params = serde_json::to_value(&request).map_err(|error| Problem::internal(&error))?;
    let job = NewJob { kind: SYNTHETIC, params, max_attempts: 1 };
    let recorded = state.store.record(&job, &result, idempotency.as_ref(), Timestamp::now()).await;
    match recorded.map_err(store_problem::problem)? {
        Recorded::New(id) => Ok(answer(id, &result)),
        Recorded::Before(id) => {
            let before = state.store.result(id).await.map_err(store_problem::problem)?;
            let before = before.ok_or_else(|| Problem::internal(&format!("job {id} has lost its result")))?;
            Ok(([idempotency::REPLAYED], answer(id, &before)).into_response())
        }
        Recorded::Conflict => Err(idempotency::conflict()),
    }
}

/// The answer for a result of a synthetic job, new or kept.
pub(crate) fn answer(id: JobId, result: &JobResult) -> Response {
    let side = result.document["metadata"]["grid_size"].as_u64().unwrap_or(1).max(1) as usize;
    let convergence_map = result.data.as_deref().unwrap_or_default().chunks(side).collect();
    Json(Answer { job_id: id.to_string(), convergence_map, document: &result.document }).into_response()
}

fn check(request: &SyntheticRequest) -> Result<(), Problem> {
    let mut violations = Violations::default();
    violations.check_range("/mass", request.mass, &limits::MASS);
    violations.check_range("/scale_radius", request.scale_radius, &limits::SCALE_RADIUS);
    violations.check_range("/ellipticity", request.ellipticity, &limits::ELLIPTICITY);
    violations.check_range("/position_angle", request.position_angle, &limits::POSITION_ANGLE_DEG);
    violations.check_range("/half_width_kpc", request.half_width_kpc, &limits::HALF_WIDTH);
    if !limits::SYNTHETIC_SIDES.contains(&request.grid_size) {
        violations.add("/grid_size", "not_allowed", "must be 32, 64 or 128");
    }
    if request.profile_type == ProfileType::Nfw && request.ellipticity != 0.0 {
        violations.add("/ellipticity", "not_allowed", "must be 0 for the profile NFW, which is spherical");
    }
    check_redshifts(&mut violations, request.z_lens, request.z_source);
    violations.into_result()
}

fn make(request: &SyntheticRequest) -> Result<JobResult, serde_json::Error> {
    let geometry = LensGeometry::new(&Cosmology::default(), request.z_lens, request.z_source);
    let profile = Nfw::new(request.mass, request.scale_radius, &geometry);
    let angle = (request.position_angle % 180.0).to_radians();
    let lens = EllipticalNfw::new(profile, request.ellipticity, angle);
    let grid = Grid { side: request.grid_size, half_width: request.half_width_kpc };
    let map = convergence_map(&lens, &grid);
    let values = map.values();
    let document = Document {
        metadata: Metadata {
            profile_type: request.profile_type,
            mass: request.mass,
            scale_radius: request.scale_radius,
            ellipticity: request.ellipticity,
            axis_ratio: lens.axis_ratio,
            position_angle: request.position_angle,
            map: MapMetadata {
                grid_size: request.grid_size,
                half_width_kpc: request.half_width_kpc,
                z_lens: request.z_lens,
                z_source: request.z_source,
            },
            concentration: profile.concentration,
            virial_radius_kpc: profile.virial_radius,
            kappa_s: profile.kappa_s,
            scale_angle_arcsec: profile.scale_angle,
            critical_surface_density: geometry.critical_surface_density,
            convergence_max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            convergence_mean: values.iter().sum::<f64>() / values.len() as f64,
        },
        coordinates: Coordinates { x: grid.centres(), y: grid.centres() },
        coordinates_unit: "kpc",
        pixel_arcsec: grid.pixel_arcsec(&geometry),
        warnings: if profile.concentration < 1.0 { vec!["concentration below 1"] } else { vec![] },
    };
    Ok(JobResult { document: serde_json::to_value(&document)?, data: Some(map.values().to_vec()) })
}
