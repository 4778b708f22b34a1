//! The dimensionless functions of the NFW profile, of x = R / r_s. They do not know masses or distances; each is
//! accurate to about 1e-12 for every x > 0, also where its closed form loses all digits (x near 1, x near 0).

use std::f64::consts::LN_2;

/// Within this distance of x = 1 the closed forms are worse than their series to sixth order.
const SERIES_REACH: f64 = 5e-3;

const F_SERIES: [f64; 7] =
    [1.0 / 3.0, -2.0 / 5.0, 13.0 / 35.0, -20.0 / 63.0, 61.0 / 231.0, -94.0 / 429.0, 0.183527583527583];

const H_SERIES: [f64; 7] =
    [1.0 - LN_2, 1.0 / 3.0, -1.0 / 30.0, -1.0 / 105.0, 17.0 / 1260.0, -0.010678210678211, 0.0074925074925075];

/// F(x): convergence is `2 kappa_s F` (Bartelmann 1996).
pub(crate) fn f(x: f64) -> f64 {
    let d = x - 1.0;
    if d.abs() < SERIES_REACH {
        return polynomial(&F_SERIES, d);
    }
    (1.0 - angle_ratio(x)) / (d * (x + 1.0))
}

/// The derivative of F.
pub(crate) fn f_slope(x: f64) -> f64 {
    let d = x - 1.0;
    if d.abs() < SERIES_REACH {
        let mut slope = [0.0; 6];
        for (power, term) in slope.iter_mut().enumerate() {
            *term = F_SERIES[power + 1] * (power + 1) as f64;
        }
        return polynomial(&slope, d);
    }
    (1.0 - 3.0 * x * x * f(x)) / (x * d * (x + 1.0))
}

/// h(x): the mean convergence inside x is `4 kappa_s h / x^2`.
pub(crate) fn h(x: f64) -> f64 {
    let d = x - 1.0;
    if d.abs() < SERIES_REACH {
        return polynomial(&H_SERIES, d);
    }
    if x > 1.0 {
        return (x / 2.0).ln() + angle_ratio(x);
    }
    // The sum of logarithms that defines h cancels for small x; this form has no difference of large terms.
    let s = ((1.0 - x) * (1.0 + x)).sqrt();
    (2.0 / x).ln() * x * x / (s * (1.0 + s)) + log_remainder(x) / s
}

/// The bracket of the lensing potential: `psi = 2 kappa_s theta_s^2 * potential`.
pub(crate) fn potential(x: f64) -> f64 {
    let half_log = (x / 2.0).ln();
    if x < 1.0 {
        // The difference of squares as a product whose small factor is taken without cancellation.
        (half_log - arcosh_inverse(x)) * log_remainder(x)
    } else {
        let arc = ((x - 1.0) * (x + 1.0)).sqrt().atan();
        half_log * half_log + arc * arc
    }
}

/// `arcosh(1/x) / sqrt(1 - x^2)` below 1, `arccos(1/x) / sqrt(x^2 - 1)` above.
fn angle_ratio(x: f64) -> f64 {
    if x < 1.0 {
        arcosh_inverse(x) / ((1.0 - x) * (1.0 + x)).sqrt()
    } else {
        let s = ((x - 1.0) * (x + 1.0)).sqrt();
        s.atan() / s
    }
}

fn arcosh_inverse(x: f64) -> f64 {
    let s = ((1.0 - x) * (1.0 + x)).sqrt();
    ((1.0 + s) / x).ln()
}

/// `ln(x/2) + arcosh(1/x)`, which tends to -x^2/4.
fn log_remainder(x: f64) -> f64 {
    let s = ((1.0 - x) * (1.0 + x)).sqrt();
    (-x * x / (2.0 * (1.0 + s))).ln_1p()
}

fn polynomial(coefficients: &[f64], at: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * at + coefficient)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64, relative: f64, what: &str) {
        assert!(((found - expected) / expected).abs() < relative, "{what}: {found} instead of {expected}");
    }

    #[test]
    fn series_join_the_closed_forms_smoothly() {
        for side in [-1.0, 1.0] {
            let inside = 1.0 + side * SERIES_REACH * (1.0 - 1e-9);
            let outside = 1.0 + side * SERIES_REACH * (1.0 + 1e-9);
            let step = outside - inside;
            close(f(outside), f(inside) + step * f_slope(inside), 1e-12, "F");
            close(h(outside), h(inside) + step * inside * f(inside), 1e-12, "h");
            close(f_slope(outside), f_slope(inside), 1e-9, "F'");
        }
    }

    #[test]
    fn f_keeps_its_digits_near_one() {
        for d in [-1e-4_f64, -1e-6, -1e-8, 0.0, 1e-8, 1e-6, 1e-4] {
            let expected = 1.0 / 3.0 - 0.4 * d + 13.0 / 35.0 * d * d - 20.0 / 63.0 * d.powi(3);
            close(f(1.0 + d), expected, 1e-15, "F");
        }
    }

    #[test]
    fn slopes_are_those_of_the_functions() {
        for x in [1e-3, 0.05, 0.3, 0.9, 0.996, 1.0, 1.004, 1.5, 4.0, 30.0] {
            let step = 1e-5 * x;
            close((h(x + step) - h(x - step)) / (2.0 * step), x * f(x), 1e-6, "h' = x F");
            close((f(x + step) - f(x - step)) / (2.0 * step), f_slope(x), 1e-6, "F'");
            let slope = (potential(x + step) - potential(x - step)) / (2.0 * step);
            close(slope, 2.0 * h(x) / x, 1e-5, "potential' = 2 h / x");
        }
    }

    #[test]
    fn h_keeps_its_digits_near_zero() {
        // h(x) = x^2/2 (ln(2/x) - 1/2) + O(x^4 ln x).
        for x in [1e-8, 1e-6, 1e-4] {
            close(h(x), x * x / 2.0 * ((2.0_f64 / x).ln() - 0.5), 1e-7, "h");
        }
    }
}
