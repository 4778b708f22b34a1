//! Linear algebra of the fit: small symmetric positive definite systems. It knows nothing of lenses.

use super::model::PARAMETERS;

pub(super) type Matrix = [[f64; PARAMETERS]; PARAMETERS];

/// The matrix with its diagonal raised by a share (Marquardt's scaling).
pub(super) fn damped(matrix: &Matrix, damping: f64) -> Matrix {
    let mut result = *matrix;
    for (i, row) in result.iter_mut().enumerate() {
        row[i] *= 1.0 + damping;
    }
    result
}

/// The solution of `matrix * x = right`. None unless the matrix is positive definite.
pub(super) fn solve(matrix: &Matrix, right: &[f64; PARAMETERS]) -> Option<[f64; PARAMETERS]> {
    let lower = cholesky(matrix)?;
    let mut x = *right;
    for i in 0..PARAMETERS {
        for j in 0..i {
            x[i] -= lower[i][j] * x[j];
        }
        x[i] /= lower[i][i];
    }
    for i in (0..PARAMETERS).rev() {
        for j in i + 1..PARAMETERS {
            x[i] -= lower[j][i] * x[j];
        }
        x[i] /= lower[i][i];
    }
    Some(x)
}

/// The inverse. None unless the matrix is positive definite.
pub(super) fn inverse(matrix: &Matrix) -> Option<Matrix> {
    let mut result = [[0.0; PARAMETERS]; PARAMETERS];
    for (column, row) in result.iter_mut().enumerate() {
        let mut unit = [0.0; PARAMETERS];
        unit[column] = 1.0;
        *row = solve(matrix, &unit)?;
    }
    Some(result)
}

fn cholesky(matrix: &Matrix) -> Option<Matrix> {
    let mut lower = [[0.0; PARAMETERS]; PARAMETERS];
    for i in 0..PARAMETERS {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            let rest = matrix[i][j] - sum;
            if i != j {
                lower[i][j] = rest / lower[j][j];
            } else if rest > f64::EPSILON * matrix[i][i] {
                lower[i][i] = rest.sqrt();
            } else {
                return None;
            }
        }
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: Matrix =
        [[4.0, 1.0, 0.5, 0.0], [1.0, 3.0, 0.2, 0.1], [0.5, 0.2, 2.0, 0.3], [0.0, 0.1, 0.3, 1.0]];

    #[test]
    fn inverse_times_matrix_is_one() {
        let inverse = inverse(&MATRIX).unwrap();
        for (i, row) in inverse.iter().enumerate() {
            for j in [0, 1, 2, 3] {
                let product: f64 = row.iter().zip(&MATRIX).map(|(a, b)| a * b[j]).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-14, "{i},{j}: {product}");
            }
        }
    }

    #[test]
    fn a_singular_matrix_has_no_solution() {
        let mut singular = MATRIX;
        singular[3] = singular[2];
        for row in &mut singular {
            row[3] = row[2];
        }
        assert_eq!(inverse(&singular), None);
        assert_eq!(solve(&[[0.0; PARAMETERS]; PARAMETERS], &[1.0; PARAMETERS]), None);
    }
}
