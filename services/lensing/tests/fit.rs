//! The fit gives back what went into a map.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use lensing::{Cosmology, EllipticalNfw, Fit, FitError, Grid, LensGeometry, Map, Nfw, convergence_map, fit};

const GRID: Grid = Grid { side: 32, half_width: 500.0 };

fn geometry() -> LensGeometry {
    LensGeometry::new(&Cosmology::default(), 0.5, 1.5)
}

struct Truth {
    mass: f64,
    scale_radius: f64,
    ellipticity: f64,
    position_angle: f64,
}

impl Truth {
    fn map(&self, grid: &Grid) -> Map {
        let profile = Nfw::new(self.mass, self.scale_radius, &geometry());
        convergence_map(&EllipticalNfw::new(profile, self.ellipticity, self.position_angle), grid)
    }
}

/// Noise that is the same in every run: sums of twelve uniform numbers (variance one) from a 64-bit generator.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        let uniform = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..12).map(|_| uniform(&mut state)).sum::<f64>() - 6.0
    }
}

fn noisy(map: &Map, sigma: f64, seed: u64) -> Map {
    let mut noise = noise(seed);
    Map::new(map.side(), map.values().iter().map(|value| value + sigma * noise()).collect()).unwrap()
}

fn assert_recovers(truth: &Truth, found: &Fit) {
    let what = format!("{:e} {} {}: {found:?}", truth.mass, truth.scale_radius, truth.ellipticity);
    assert!(found.converged, "{what}");
    assert!((10f64.powf(found.log10_mass) / truth.mass - 1.0).abs() < 1e-6, "{what}");
    assert!((10f64.powf(found.log10_scale_radius) / truth.scale_radius - 1.0).abs() < 1e-6, "{what}");
    assert!((found.ellipticity - truth.ellipticity).abs() < 1e-6, "{what}");
    if truth.ellipticity > 0.0 {
        assert!((found.position_angle - truth.position_angle).abs() < 1e-6, "{what}");
    }
    assert!(found.relative_residual < 1e-9, "{what}");
}

#[test]
fn recovers_every_corner_of_the_accepted_range() {
    for mass in [1e11, 2e12, 1e14] {
        for scale_radius in [50.0, 170.0, 500.0] {
            for (ellipticity, position_angle) in [(0.0, 0.0), (0.2, 0.4), (0.5, 2.9)] {
                let truth = Truth { mass, scale_radius, ellipticity, position_angle };
                assert_recovers(&truth, &fit(&truth.map(&GRID), &GRID, &geometry()).unwrap());
            }
        }
    }
}

#[test]
fn recovers_on_other_fields_of_view_and_odd_grids() {
    let truth = Truth { mass: 1e13, scale_radius: 120.0, ellipticity: 0.3, position_angle: 1.0 };
    for (side, half_width) in [(16, 50.0), (17, 500.0), (48, 2000.0)] {
        let grid = Grid { side, half_width };
        assert_recovers(&truth, &fit(&truth.map(&grid), &grid, &geometry()).unwrap());
    }
}

#[test]
fn truth_lies_within_the_error_bars_as_often_as_they_promise() {
    let truth = Truth { mass: 2e13, scale_radius: 180.0, ellipticity: 0.25, position_angle: 0.8 };
    let clean = truth.map(&GRID);
    let (mut within, mut worst, runs) = ([0_u32; 4], 0.0_f64, 60);
    for seed in 0..runs {
        let found = fit(&noisy(&clean, 0.005, seed), &GRID, &geometry()).unwrap();
        assert!(found.converged);
        assert!((found.residual_rms / 0.005 - 1.0).abs() < 0.1, "{}", found.residual_rms);
        let errors = &found.errors;
        let offsets = [
            (found.log10_mass - truth.mass.log10()) / errors.log10_mass,
            (found.log10_scale_radius - truth.scale_radius.log10()) / errors.log10_scale_radius,
            (found.ellipticity - truth.ellipticity) / errors.ellipticity,
            (found.position_angle - truth.position_angle) / errors.position_angle.unwrap(),
        ];
        for (count, offset) in within.iter_mut().zip(offsets) {
            *count += u32::from(offset.abs() < 1.0);
            worst = worst.max(offset.abs());
        }
    }
    // 68 % of 60 is 41; the bounds are three standard deviations of that count.
    assert!(within.iter().all(|count| (30..=52).contains(count)), "{within:?}");
    assert!(worst < 5.0, "{worst} standard errors away");
}

#[test]
fn a_round_lens_in_noise_has_no_direction() {
    let truth = Truth { mass: 2e13, scale_radius: 180.0, ellipticity: 0.0, position_angle: 0.0 };
    let directions = (0..20)
        .map(|seed| fit(&noisy(&truth.map(&GRID), 0.01, seed), &GRID, &geometry()).unwrap())
        .filter(|found| found.errors.position_angle.is_none())
        .count();
    assert!(directions > 0, "twenty round lenses all claim a direction");
}

#[test]
fn a_map_without_a_lens_is_refused() {
    let zeros = Map::new(32, vec![0.0; 1024]).unwrap();
    assert_eq!(fit(&zeros, &GRID, &geometry()), Err(FitError::NoSignal));
    let negative = Map::new(32, vec![-0.1; 1024]).unwrap();
    assert_eq!(fit(&negative, &GRID, &geometry()), Err(FitError::NoSignal));
    let other = Grid { side: 16, half_width: 500.0 };
    assert_eq!(fit(&zeros, &other, &geometry()), Err(FitError::Shape { map: 32, grid: 16 }));
}

#[test]
fn odd_maps_end_in_bounded_steps() {
    let mut noise = noise(7);
    let only_noise = Map::new(32, (0..1024).map(|_| 0.2 + noise()).collect()).unwrap();
    let rising = Map::new(32, GRID.points().map(|(x, y)| x.hypot(y) / 500.0).collect()).unwrap();
    let flat = Map::new(32, vec![0.3; 1024]).unwrap();
    for map in [only_noise, rising, flat] {
        if let Ok(found) = fit(&map, &GRID, &geometry()) {
            assert!(found.log10_mass.is_finite() && found.iterations <= 100, "{found:?}");
        }
    }
}
