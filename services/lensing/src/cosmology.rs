//! Physical constants and a flat universe of matter and a cosmological constant: distances, critical density, virial
//! overdensity. It does not know lenses' profiles. Radiation is left out, so distances hold for z up to about 10.

use std::f64::consts::PI;

use crate::quadrature::integrate;

/// Speed of light in km/s (exact).
pub const SPEED_OF_LIGHT_KM_S: f64 = 299_792.458;
/// Nominal solar mass parameter in m^3/s^2 (IAU 2015 resolution B3).
pub const GM_SUN_M3_S2: f64 = 1.327_124_4e20;
/// One kiloparsec in metres (IAU 2015 resolution B2).
pub const KPC_M: f64 = 1000.0 * 149_597_870_700.0 * 648_000.0 / PI;
/// Gravitational constant in kpc (km/s)^2 per solar mass.
pub const GRAVITATION: f64 = GM_SUN_M3_S2 / KPC_M / 1e6;
/// One arcsecond in radians.
pub const ARCSEC_RAD: f64 = PI / 648_000.0;

/// A flat universe; matter and cosmological constant add up to one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cosmology {
    /// Hubble constant in km/s per Mpc.
    pub hubble_km_s_mpc: f64,
    /// Matter density today as a share of the critical one.
    pub omega_matter: f64,
}

impl Default for Cosmology {
    fn default() -> Self {
        Self { hubble_km_s_mpc: 70.0, omega_matter: 0.3 }
    }
}

impl Cosmology {
    /// H(z) / H0.
    pub fn expansion(&self, z: f64) -> f64 {
        (self.omega_matter * (1.0 + z).powi(3) + 1.0 - self.omega_matter).sqrt()
    }

    /// Comoving distance in kpc.
    pub fn comoving_distance(&self, z: f64) -> f64 {
        let hubble_distance = SPEED_OF_LIGHT_KM_S / (self.hubble_km_s_mpc / 1000.0);
        hubble_distance * z * integrate(|share| 1.0 / self.expansion(share * z))
    }

    /// Critical density in solar masses per cubic kpc.
    pub fn critical_density(&self, z: f64) -> f64 {
        let hubble = self.hubble_km_s_mpc / 1000.0 * self.expansion(z);
        3.0 * hubble * hubble / (8.0 * PI * GRAVITATION)
    }

    /// Mean density of a virialised halo over the critical density (Bryan and Norman 1998).
    pub fn virial_overdensity(&self, z: f64) -> f64 {
        let d = self.omega_matter * (1.0 + z).powi(3) / self.expansion(z).powi(2) - 1.0;
        18.0 * PI * PI + 82.0 * d - 39.0 * d * d
    }
}

/// A lens and a source on one line of sight: everything that a profile needs to know about the universe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LensGeometry {
    /// Angular diameter distance to the lens in kpc.
    pub lens_distance: f64,
    /// Angular diameter distance to the source in kpc.
    pub source_distance: f64,
    /// Angular diameter distance from lens to source in kpc.
    pub lens_source_distance: f64,
    /// Critical surface density in solar masses per square kpc.
    pub critical_surface_density: f64,
    /// Mean density inside the virial radius in solar masses per cubic kpc.
    pub virial_density: f64,
}

impl LensGeometry {
    /// The geometry for redshifts `0 < z_lens < z_source`.
    pub fn new(cosmology: &Cosmology, z_lens: f64, z_source: f64) -> Self {
        let (to_lens, to_source) =
            (cosmology.comoving_distance(z_lens), cosmology.comoving_distance(z_source));
        let lens_distance = to_lens / (1.0 + z_lens);
        let source_distance = to_source / (1.0 + z_source);
        let lens_source_distance = (to_source - to_lens) / (1.0 + z_source);
        Self {
            lens_distance,
            source_distance,
            lens_source_distance,
            critical_surface_density: SPEED_OF_LIGHT_KM_S * SPEED_OF_LIGHT_KM_S * source_distance
                / (4.0 * PI * GRAVITATION * lens_distance * lens_source_distance),
            virial_density: cosmology.virial_overdensity(z_lens) * cosmology.critical_density(z_lens),
        }
    }

    /// The angle in arcseconds under which a length in kpc at the lens is seen.
    pub fn arcsec(&self, kpc: f64) -> f64 {
        kpc / self.lens_distance / ARCSEC_RAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_and_overdensities_have_their_published_values() {
        assert!((GRAVITATION / 4.300_917_27e-6 - 1.0).abs() < 1e-9);
        let cosmology = Cosmology::default();
        for (z, expected) in [(0.5, 137.618_354), (0.3, 125.073_396), (0.2, 117.668_880)] {
            assert!((cosmology.virial_overdensity(z) - expected).abs() < 1e-6, "z = {z}");
        }
    }

    #[test]
    fn distances_in_a_universe_of_matter_alone_have_a_closed_form() {
        let cosmology = Cosmology { omega_matter: 1.0, ..Cosmology::default() };
        for z in [0.01, 0.5, 2.0, 5.0] {
            let exact = 2.0 * SPEED_OF_LIGHT_KM_S / 0.07 * (1.0 - 1.0 / (1.0_f64 + z).sqrt());
            assert!((cosmology.comoving_distance(z) / exact - 1.0).abs() < 1e-13, "z = {z}");
        }
    }
}
