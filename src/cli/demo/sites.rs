//! The demonstration's data centres, and how far they are from each other.

/// A data centre of the demonstration.
pub struct Site {
    /// Its name: the nearest airport's.
    pub id: &'static str,
    /// For people.
    pub city: &'static str,
    /// ISO 3166-1.
    pub country: &'static str,
    /// The region that it is in, beside EU, which follows from the country.
    pub region: &'static str,
    /// Degrees.
    pub latitude: f64,
    /// Degrees.
    pub longitude: f64,
}

impl Site {
    /// Name of its machine.
    pub fn machine(&self) -> String {
        format!("{}-1", self.id)
    }
}

const fn site(
    id: &'static str,
    city: &'static str,
    country: &'static str,
    region: &'static str,
    latitude: f64,
    longitude: f64,
) -> Site {
    Site { id, city, country, region, latitude, longitude }
}

/// All of them.
pub const SITES: [Site; 8] = [
    site("iad", "Washington", "US", "ENAM", 38.94, -77.46),
    site("gru", "São Paulo", "BR", "SAM", -23.43, -46.47),
    site("lhr", "London", "GB", "WEUR", 51.47, -0.45),
    site("cdg", "Paris", "FR", "WEUR", 49.01, 2.55),
    site("fra", "Frankfurt", "DE", "WEUR", 50.03, 8.56),
    site("ams", "Amsterdam", "NL", "WEUR", 52.31, 4.76),
    site("mad", "Madrid", "ES", "WEUR", 40.47, -3.56),
    site("nrt", "Tokyo", "JP", "APAC", 35.77, 140.39),
];

/// Kilometres around the earth (haversine, mean radius 6371 km).
pub fn kilometres(a: &Site, b: &Site) -> f64 {
    let (lat_a, lat_b) = (a.latitude.to_radians(), b.latitude.to_radians());
    let (lat, lon) = (lat_b - lat_a, (b.longitude - a.longitude).to_radians());
    let h = (lat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (lon / 2.0).sin().powi(2);
    2.0 * 6371.0 * h.sqrt().asin()
}

/// A round trip in milliseconds: a line fitted to measured round trips of the public internet; below 1000 km light in
/// fibre with a usual detour.
pub fn round_trip_ms(a: &Site, b: &Site) -> f64 {
    let km = kilometres(a, b);
    if km < 1000.0 { 0.3 + 0.0157 * km } else { 13.4 + 0.01726 * km }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_globe() {
        let at = |id: &str| SITES.iter().find(|site| site.id == id).unwrap();
        assert!((kilometres(at("lhr"), at("cdg")) - 347.0).abs() < 5.0);
        assert!((kilometres(at("iad"), at("nrt")) - 10_870.0).abs() < 60.0);
        assert!(round_trip_ms(at("fra"), at("ams")) < 7.0 && round_trip_ms(at("nrt"), at("fra")) > 150.0);
        assert!((round_trip_ms(at("fra"), at("fra")) - 0.3).abs() < 1e-9);
    }
}
