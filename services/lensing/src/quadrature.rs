//! Gauss-Legendre quadrature of 32 points. It knows nothing of what it integrates.

use std::f64::consts::PI;
use std::sync::LazyLock;

const POINTS: usize = 32;

/// Abscissas and weights on [0, 1], ascending.
static RULE: LazyLock<[(f64, f64); POINTS]> = LazyLock::new(rule);

/// Integral of `f` over [0, 1].
pub(crate) fn integrate(mut f: impl FnMut(f64) -> f64) -> f64 {
    RULE.iter().map(|&(at, weight)| weight * f(at)).sum()
}

/// As [`integrate`] for two integrands that share their work.
pub(crate) fn integrate_pair(mut f: impl FnMut(f64) -> (f64, f64)) -> (f64, f64) {
    RULE.iter().fold((0.0, 0.0), |(first, second), &(at, weight)| {
        let (a, b) = f(at);
        (first + weight * a, second + weight * b)
    })
}

fn rule() -> [(f64, f64); POINTS] {
    let mut rule = [(0.0, 0.0); POINTS];
    for (i, point) in rule.iter_mut().enumerate() {
        let mut x = -(PI * (i as f64 + 0.75) / (POINTS as f64 + 0.5)).cos();
        let mut slope = 0.0;
        // Newton's method from this start doubles its digits each time: four steps reach the last bit.
        for _ in 0..8 {
            let (value, derivative) = legendre(x);
            slope = derivative;
            x -= value / derivative;
        }
        *point = ((1.0 + x) / 2.0, 1.0 / ((1.0 - x * x) * slope * slope));
    }
    rule
}

/// The Legendre polynomial of degree [`POINTS`] and its derivative.
fn legendre(x: f64) -> (f64, f64) {
    let (mut before, mut value) = (1.0, x);
    for degree in 2..=POINTS {
        let n = degree as f64;
        (before, value) = (value, ((2.0 * n - 1.0) * x * value - (n - 1.0) * before) / n);
    }
    (value, POINTS as f64 * (x * value - before) / (x * x - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_exact_for_polynomials_up_to_degree_63() {
        for degree in [0, 1, 2, 7, 31, 63] {
            let exact = 1.0 / (f64::from(degree) + 1.0);
            let found = integrate(|x| x.powi(degree));
            assert!((found - exact).abs() < 1e-15, "degree {degree}: {found} instead of {exact}");
        }
        assert!((integrate(|x| x.powi(80)) - 1.0 / 81.0).abs() > 1e-30);
    }
}
