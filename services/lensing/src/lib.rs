//! The physics of NFW gravitational lenses: cosmology, spherical and elliptical profiles, maps, and the
//! least-squares fit that recovers a lens from its convergence map.
//!
//! It does not know services, formats or files. Lengths are physical kpc, masses solar masses, angles on the sky
//! arcseconds and position angles radians; every function is pure, so equal input gives equal bits.

pub mod cosmology;
pub mod fit;
pub mod lens;
pub mod limits;
pub mod map;
pub mod nfw;
mod quadrature;
mod shape;

pub use cosmology::{Cosmology, LensGeometry};
pub use fit::{Fit, FitError, FitErrors, fit};
pub use lens::EllipticalNfw;
pub use map::{Grid, Map, convergence_map, deflection_map};
pub use nfw::Nfw;
