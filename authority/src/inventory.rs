//! The operator's inventory: data centres, machines, and what is true of each. The only source of attributes.
//!
//! A machine's attributes come from here and never from its own claim. Law: what the file says must fit the schema as a
//! whole, or nothing of it is used.

use std::collections::{BTreeMap, BTreeSet};

use cinnabar_authority_api::names::{DataCenterId, MachineId};
use cinnabar_authority_api::schema::{CLUSTER, COUNTRY, DATA_CENTER, Facts, Label, Schema};
use cinnabar_daemon::id::ClusterId;
use serde::Deserialize;
use time::Date;
use time::macros::format_description;
use toml::Value;

/// Most data centres of an inventory.
pub const DATA_CENTERS_MAX: usize = 4_096;
/// Most machines of an inventory.
pub const MACHINES_MAX: usize = 200_000;
/// Largest inventory file, in bytes.
pub const INVENTORY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why an inventory is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InventoryError {
    /// It does not follow its format.
    #[error("inventory: {0}")]
    Syntax(String),
    /// A data centre or machine is not as it should be.
    #[error("inventory: {kind} `{id}`: {problem}")]
    Entry {
        /// `data centre` or `machine`.
        kind: &'static str,
        /// Its id.
        id: String,
        /// What is wrong, and what to write instead.
        problem: String,
    },
}

/// Where a data centre stands on the globe, in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// -90 to 90.
    pub latitude: f64,
    /// -180 to 180.
    pub longitude: f64,
}

/// A data centre.
#[derive(Debug, Clone)]
pub struct DataCenter {
    /// Its name.
    pub id: DataCenterId,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// Where it stands; estimates of latency need it.
    pub place: Option<Place>,
    /// Until when a member of a set was looked into, by `set.member`: an alarm follows that day.
    pub reviewed_until: BTreeMap<String, Date>,
    facts: Facts,
}

/// The whole inventory.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// By name.
    pub data_centers: BTreeMap<DataCenterId, DataCenter>,
    machines: BTreeMap<MachineId, Facts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    data_center: Vec<FileCenter>,
    #[serde(default)]
    machine: Vec<FileMachine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCenter {
    id: DataCenterId,
    country: String,
    place: Option<Place>,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
    #[serde(default)]
    reviewed_until: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMachine {
    id: MachineId,
    data_center: DataCenterId,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
}

impl Inventory {
    /// Reads an inventory.
    ///
    /// ```toml
    /// [[data_center]]
    /// id = "fra"
    /// country = "DE"
    /// place = { latitude = 50.1, longitude = 8.7 }
    /// attributes = { region = ["WEUR"], tier = "highest", standard = ["pci"] }
    /// reviewed_until = { "standard.pci" = "2027-06-30" }
    /// [[machine]]
    /// id = "fra-1"
    /// data_center = "fra"
    /// ```
    ///
    /// # Errors
    /// [`InventoryError`] with the first fault.
    pub fn from_toml(text: &str, schema: &Schema, cluster: &ClusterId) -> Result<Self, InventoryError> {
        let file: File = toml::from_str(text).map_err(|error| InventoryError::Syntax(error.to_string()))?;
        if file.data_center.len() > DATA_CENTERS_MAX || file.machine.len() > MACHINES_MAX {
            let most = format!("at most {DATA_CENTERS_MAX} data centres and {MACHINES_MAX} machines");
            return Err(InventoryError::Syntax(most));
        }
        let mut inventory = Self::default();
        for entry in file.data_center {
            let id = entry.id.clone();
            let refused = |problem| InventoryError::Entry { kind: "data centre", id: id.to_string(), problem };
            let center = entry.read(schema).map_err(refused)?;
            schema.attributes(cluster, &center.facts).map_err(|error| refused(error.to_string()))?;
            if inventory.data_centers.insert(center.id.clone(), center).is_some() {
                return Err(refused("it is there twice".to_owned()));
            }
        }
        for entry in file.machine {
            let id = entry.id.clone();
            let refused = |problem| InventoryError::Entry { kind: "machine", id: id.to_string(), problem };
            let Some(center) = inventory.data_centers.get(&entry.data_center) else {
                return Err(refused(format!("there is no data centre `{}`", entry.data_center)));
            };
            let mut facts = center.facts.clone();
            lay(&mut facts, &entry.attributes, schema).map_err(refused)?;
            schema.attributes(cluster, &facts).map_err(|error| refused(error.to_string()))?;
            if inventory.machines.insert(entry.id, facts).is_some() {
                return Err(refused("it is there twice".to_owned()));
            }
        }
        Ok(inventory)
    }

    /// Names of all data centres.
    pub fn names(&self) -> BTreeSet<DataCenterId> {
        self.data_centers.keys().cloned().collect()
    }

    /// What is true of a machine.
    pub fn machine(&self, id: &MachineId) -> Option<&Facts> {
        self.machines.get(id)
    }

    /// All machines.
    pub fn machines(&self) -> impl Iterator<Item = (&MachineId, &Facts)> {
        self.machines.iter()
    }

    /// Reviews whose day has passed: data centre and `set.member`.
    pub fn lapsed(&self, today: Date) -> Vec<(&DataCenterId, &str)> {
        self.data_centers
            .values()
            .flat_map(|center| center.reviewed_until.iter().map(move |(what, until)| (center, what, until)))
            .filter(|(_, _, until)| **until < today)
            .map(|(center, what, _)| (&center.id, what.as_str()))
            .collect()
    }
}

impl FileCenter {
    fn read(self, schema: &Schema) -> Result<DataCenter, String> {
        if let Some(place) = self.place
            && !(place.latitude.abs() <= 90.0 && place.longitude.abs() <= 180.0)
        {
            return Err("place: latitude is -90 to 90 degrees, longitude -180 to 180".to_owned());
        }
        let (values, sets) = (BTreeMap::new(), BTreeMap::new());
        let mut facts = Facts { country: self.country.clone(), data_center: self.id.clone(), values, sets };
        lay(&mut facts, &self.attributes, schema)?;
        let mut reviewed_until = BTreeMap::new();
        for (what, text) in self.reviewed_until {
            let held = what
                .split_once('.')
                .is_some_and(|(set, member)| facts.sets.get(set).is_some_and(|members| members.contains(member)));
            if !held {
                return Err(format!("reviewed_until: `{what}` is no `set.member` that it has"));
            }
            let day = Date::parse(&text, format_description!("[year]-[month]-[day]"))
                .map_err(|_| format!("reviewed_until: `{text}` is no day such as 2027-06-30"))?;
            reviewed_until.insert(what, day);
        }
        Ok(DataCenter { id: self.id, country: self.country, place: self.place, reviewed_until, facts })
    }
}

/// Lays what a table says over facts; a set replaces the one below.
fn lay(facts: &mut Facts, attributes: &BTreeMap<String, Value>, schema: &Schema) -> Result<(), String> {
    for (name, value) in attributes {
        if [COUNTRY, DATA_CENTER, CLUSTER].contains(&name.as_str()) {
            return Err(format!("attributes: `{name}` follows from the data centre and is not written here"));
        }
        match (schema.labels().get(name), value) {
            (Some(Label::Listed { .. }), Value::String(value)) => {
                facts.values.insert(name.clone(), value.clone());
            }
            (Some(Label::Set(_)), Value::Array(members)) => {
                let members: Option<BTreeSet<String>> =
                    members.iter().map(|member| member.as_str().map(str::to_owned)).collect();
                let members = members.ok_or_else(|| format!("attributes: `{name}` is a list of words"))?;
                facts.sets.insert(name.clone(), members);
            }
            (Some(Label::Listed { .. }), _) => return Err(format!("attributes: `{name}` is one word")),
            (Some(_), _) => return Err(format!("attributes: `{name}` is a list of words")),
            (None, _) => return Err(format!("attributes: `{name}` is not in the schema")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

    fn read(text: &str) -> Result<Inventory, InventoryError> {
        let schema = Schema::from_toml("[labels.standard]\nmembers = [\"pci\"]\n").unwrap();
        Inventory::from_toml(text, &schema, &"acme".parse().unwrap())
    }

    const FRA: &str =
        "[[data_center]]\nid = \"fra\"\ncountry = \"DE\"\nattributes = { region = [\"WEUR\"], standard = [\"pci\"] }\n";

    #[test]
    fn a_machine_has_what_its_data_centre_has_unless_it_says_otherwise() {
        let text = format!(
            "{FRA}[[machine]]\nid = \"fra-1\"\ndata_center = \"fra\"\n[[machine]]\nid = \"fra-2\"\ndata_center = \"fra\"\n\
             attributes = {{ tier = \"highest\", standard = [] }}\n"
        );
        let inventory = read(&text).unwrap();
        let [one, two] = ["fra-1", "fra-2"].map(|id| inventory.machine(&id.parse().unwrap()).unwrap());
        assert_eq!((one.country.as_str(), one.values.len(), one.sets["standard"].len()), ("DE", 0, 1));
        assert_eq!(
            (two.values["tier"].as_str(), two.sets["standard"].len(), two.sets["region"].len()),
            ("highest", 0, 1)
        );
        assert_eq!((inventory.machines().count(), inventory.names().len()), (2, 1));
    }

    #[test]
    fn faults_are_named_with_their_entry() {
        let machine = |rest: &str| format!("{FRA}[[machine]]\nid = \"fra-1\"\n{rest}");
        for (text, problem) in [
            (format!("{FRA}{FRA}"), "data centre `fra`: it is there twice"),
            ("[[data_center]]\nid = \"fra\"\ncountry = \"XX\"\n".to_owned(), "country `XX` is not in ISO 3166-1"),
            ("[[data_center]]\nid = \"FRA\"\ncountry = \"DE\"\n".to_owned(), "data centre `FRA`"),
            (format!("{FRA}place = {{ latitude = 91.0, longitude = 0.0 }}\n"), "latitude is -90 to 90"),
            (format!("{FRA}colour = 1\n"), "unknown field"),
            (format!("{FRA}reviewed_until = {{ \"standard.iso\" = \"2027-01-01\" }}\n"), "no `set.member` that it has"),
            (format!("{FRA}reviewed_until = {{ \"standard.pci\" = \"soon\" }}\n"), "no day such as"),
            (machine("data_center = \"ams\""), "machine `fra-1`: there is no data centre `ams`"),
            (machine("data_center = \"fra\"\nattributes = { country = \"FR\" }"), "follows from the data centre"),
            (machine("data_center = \"fra\"\nattributes = { colour = \"red\" }"), "`colour` is not in the schema"),
            (machine("data_center = \"fra\"\nattributes = { region = \"EU\" }"), "`region` is a list of words"),
            (machine("data_center = \"fra\"\nattributes = { tier = [\"highest\"] }"), "`tier` is one word"),
            (machine("data_center = \"fra\"\nattributes = { tier = \"low\" }"), "`tier` must be one of"),
        ] {
            let refused = read(&text).unwrap_err().to_string();
            assert!(refused.contains(problem), "{text}: {refused}");
        }
    }

    #[test]
    fn a_review_lapses_after_its_day() {
        let inventory = read(&format!("{FRA}reviewed_until = {{ \"standard.pci\" = \"2027-06-30\" }}\n")).unwrap();
        assert!(inventory.lapsed(date!(2027 - 06 - 30)).is_empty());
        assert_eq!(inventory.lapsed(date!(2027 - 07 - 01)), [(&"fra".parse().unwrap(), "standard.pci")]);
    }
}
