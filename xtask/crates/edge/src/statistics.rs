//! How likely counts are by chance. Pure; exact for the counts of a proxy up to rounding, also where they are small.

/// From here on a tail is summed in full only while its terms matter.
const NEGLIGIBLE: f64 = 1e-18;

/// The probability that of `marked` things among `green + blue` at least `found` fall among the `green` ones, if each is
/// as likely to (Fisher's exact test of two proportions, one-sided).
pub(crate) fn at_least_among(found: u64, green: u64, blue: u64, marked: u64) -> f64 {
    let all = green + blue;
    let most = green.min(marked);
    let ways = ln_choose(all, green);
    let term = |k: u64| (ln_choose(marked, k) + ln_choose(all - marked, green - k) - ways).exp();
    let least = green.saturating_sub(all - marked);
    let mean = green as f64 * marked as f64 / (all.max(1)) as f64;
    sum(found.max(least), most, mean, term)
}

/// The probability of at least `found` of `tries`, each with probability `chance` (binomial tail).
pub(crate) fn at_least_of(found: u64, tries: u64, chance: f64) -> f64 {
    if found == 0 || chance >= 1.0 {
        return 1.0;
    }
    if chance <= 0.0 {
        return 0.0;
    }
    let term = |k: u64| {
        let others = (tries - k) as f64 * (-chance).ln_1p();
        (ln_choose(tries, k) + k as f64 * chance.ln() + others).exp()
    };
    sum(found, tries, tries as f64 * chance, term)
}

/// The sum of `term` over a range. Terms rise up to `mean` and fall from there on.
fn sum(from: u64, to: u64, mean: f64, term: impl Fn(u64) -> f64) -> f64 {
    // At the mean a tail is about a half, below it more: nothing that anybody asks about.
    if from as f64 <= mean {
        return 1.0;
    }
    let mut total = 0.0;
    for k in from..=to {
        let next = term(k);
        total += next;
        if next < total * NEGLIGIBLE || next < f64::MIN_POSITIVE {
            break;
        }
    }
    f64::min(total, 1.0)
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Stirling's series from where it is exact to the last digits, and plain multiplication below.
fn ln_factorial(n: u64) -> f64 {
    if n < 20 {
        return (2..=n).map(|factor| factor as f64).product::<f64>().ln();
    }
    let x = n as f64;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    x.mul_add(x.ln(), -x) + 0.5 * (2.0 * std::f64::consts::PI * x).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, wanted: f64) {
        assert!((found / wanted - 1.0).abs() < 1e-9, "{found} is not {wanted}");
    }

    #[test]
    fn factorials() {
        close(ln_factorial(1).exp(), 1.0);
        close(ln_factorial(10).exp(), 3_628_800.0);
        close(ln_factorial(20), 2_432_902_008_176_640_000_f64.ln());
        close(ln_factorial(25), 15_511_210_043_330_985_984_000_000_f64.ln());
    }

    /// Reference values by exact fractions: sums of products of binomial coefficients.
    #[test]
    fn tails_are_those_of_exact_arithmetic() {
        // (C(20,3)) / C(1020,3)
        close(at_least_among(3, 20, 1000, 3), 1140.0 / 176_348_140.0);
        // (C(5,4)C(5,1) + C(5,5)C(5,0)) / C(10,5)
        close(at_least_among(4, 5, 5, 5), 26.0 / 252.0);
        // 1 - .95^20 - 20 * .05 * .95^19 is about a quarter; at least 3 of 4 by a coin is 5 of 16.
        close(at_least_of(3, 4, 0.5), 5.0 / 16.0);
        close(at_least_of(4, 4, 0.01), 1e-8);
        assert_eq!(at_least_of(0, 10, 0.5), 1.0);
        assert_eq!(at_least_of(1, 10, 0.0), 0.0);
        assert_eq!(at_least_among(0, 10, 10, 0), 1.0);
    }

    #[test]
    fn no_counts_give_anything_but_a_probability() {
        let numbers = [0, 1, 2, 3, 19, 20, 21, 1000, 30_000, 1_000_000];
        for green in numbers {
            for blue in numbers {
                for marked in numbers.into_iter().filter(|marked| *marked <= green + blue) {
                    for found in numbers.into_iter().filter(|found| *found <= green.min(marked)) {
                        let p = at_least_among(found, green, blue, marked);
                        assert!((0.0..=1.0).contains(&p), "{found} {green} {blue} {marked}: {p}");
                    }
                }
                for found in numbers.into_iter().filter(|found| *found <= green) {
                    let p = at_least_of(found, green, 0.01);
                    assert!((0.0..=1.0).contains(&p), "{found} {green}: {p}");
                }
            }
        }
    }
}
