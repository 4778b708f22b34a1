//! Square maps and the grid on which they are sampled: at pixel centres, row by row with y growing, x growing in a
//! row. It does not know what made a map.

use crate::cosmology::LensGeometry;
use crate::lens::EllipticalNfw;

/// A square grid around the lens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Pixels on a side.
    pub side: usize,
    /// Half the length of a side in kpc: a fixed field of view, never scaled by the lens.
    pub half_width: f64,
}

impl Grid {
    /// Length of a pixel's side in kpc.
    pub fn pixel(&self) -> f64 {
        2.0 * self.half_width / self.side as f64
    }

    /// Length of a pixel's side on the sky in arcseconds.
    pub fn pixel_arcsec(&self, geometry: &LensGeometry) -> f64 {
        geometry.arcsec(self.pixel())
    }

    /// Centre of the pixels of a column (x) or row (y) in kpc.
    pub fn centre(&self, index: usize) -> f64 {
        -self.half_width + (index as f64 + 0.5) * 2.0 * self.half_width / self.side as f64
    }

    /// All centres along one side in kpc.
    pub fn centres(&self) -> Vec<f64> {
        (0..self.side).map(|index| self.centre(index)).collect()
    }

    /// The points of the grid as (x, y) in kpc, in the order of [`Map::values`].
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        (0..self.side).flat_map(move |row| {
            let y = self.centre(row);
            (0..self.side).map(move |column| (self.centre(column), y))
        })
    }
}

/// Values on a square grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    side: usize,
    values: Vec<f64>,
}

impl Map {
    /// A map of `side * side` values, row by row. None when the count is another.
    pub fn new(side: usize, values: Vec<f64>) -> Option<Self> {
        (side > 0 && values.len() == side * side).then_some(Self { side, values })
    }

    /// Pixels on a side.
    pub fn side(&self) -> usize {
        self.side
    }

    /// All values, row by row.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks(self.side)
    }
}

/// Convergence of a lens at every pixel centre.
pub fn convergence_map(lens: &EllipticalNfw, grid: &Grid) -> Map {
    let values = grid.points().map(|(x, y)| lens.convergence(x, y)).collect();
    Map { side: grid.side, values }
}

/// Both components of the deflection at every pixel centre, in arcseconds.
pub fn deflection_map(lens: &EllipticalNfw, grid: &Grid) -> (Map, Map) {
    let (along_x, along_y) = grid.points().map(|(x, y)| lens.deflection(x, y)).unzip();
    (Map { side: grid.side, values: along_x }, Map { side: grid.side, values: along_y })
}
