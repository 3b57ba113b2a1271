//! Contexts: named places of an authority with who asks there, so that commands need no options.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::rest::At;
use super::show;
use crate::cli::error::CliError;
use crate::cli::report::Format;

/// `cinnabar context ...`
#[derive(Subcommand)]
pub enum Context {
    /// Keep the options of this command line under a name, and use them from now on.
    Add {
        /// The name.
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Use another one.
    Use {
        /// The name.
        name: String,
    },
    /// List them.
    List,
    /// Forget one.
    Remove {
        /// The name.
        name: String,
    },
}

/// The file of contexts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    current: Option<String>,
    contexts: BTreeMap<String, BTreeMap<String, String>>,
}

fn path() -> Result<PathBuf, CliError> {
    let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let home = home.ok_or_else(|| CliError::Usage("contexts need HOME or XDG_CONFIG_HOME".to_owned()))?;
    Ok(home.join("cinnabar/contexts.json"))
}

impl Saved {
    fn load() -> Result<Self, CliError> {
        let path = path()?;
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| CliError::file(&path, error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(CliError::file(&path, error)),
        }
    }

    fn save(&self) -> Result<(), CliError> {
        let path = path()?;
        let folder = path.parent().expect("the path has two parts of ours");
        fs::create_dir_all(folder).map_err(|error| CliError::file(folder, error))?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| CliError::file(&path, error))?;
        cinnabar_daemon::file::write_synced(&path, &text, cinnabar_daemon::file::PRIVATE, true)
            .map_err(|error| CliError::file(&path, error))
    }

    /// Fills what a command line left out from the named context, or the current one.
    pub fn fill(mut at: At, name: Option<&str>) -> Result<At, CliError> {
        let given = at.addresses().into_iter().any(|(_, address)| address.is_some());
        if given && name.is_none() {
            return Ok(at);
        }
        let Ok(saved) = Self::load() else { return Ok(at) };
        let Some(name) = name.or(saved.current.as_deref()) else { return Ok(at) };
        let context = saved.contexts.get(name);
        let context = context.ok_or_else(|| CliError::Conflict(format!("there is no context `{name}`")))?;
        if !given {
            for (field, address) in at.addresses() {
                *address = context.get(field).cloned();
            }
        }
        for (field, file) in at.parts() {
            if file.is_none() {
                *file = context.get(field).map(PathBuf::from);
            }
        }
        Ok(at)
    }
}

/// Runs it.
pub fn run(command: Context, format: Format) -> Result<(), CliError> {
    let mut saved = Saved::load()?;
    match command {
        Context::Add { name, mut at } => {
            let mut context = BTreeMap::new();
            for (field, address) in at.addresses() {
                context.extend(address.take().map(|address| (field.to_owned(), address)));
            }
            for (field, file) in at.parts() {
                let Some(file) = file.take() else { continue };
                let whole = fs::canonicalize(&file).map_err(|error| CliError::file(&file, error))?;
                context.insert(field.to_owned(), whole.display().to_string());
            }
            saved.contexts.insert(name.clone(), context);
            saved.current = Some(name);
            saved.save()
        }
        Context::Use { name } if saved.contexts.contains_key(&name) => {
            saved.current = Some(name);
            saved.save()
        }
        Context::Remove { name } if saved.contexts.remove(&name).is_some() => {
            saved.current = saved.current.filter(|current| *current != name);
            saved.save()
        }
        Context::Use { name } | Context::Remove { name } => {
            Err(CliError::Conflict(format!("there is no context `{name}`")))
        }
        Context::List => {
            let current = saved.current.as_deref();
            let rows: Vec<_> = saved
                .contexts
                .iter()
                .map(|(name, context)| {
                    let place = context.get("authority").or_else(|| context.get("url"));
                    json!({ "name": name, "current": current == Some(name.as_str()), "authority": place })
                })
                .collect();
            show(format, &json!({ "contexts": rows }), Some(("contexts", &["name", "current", "authority"])))
        }
    }
}
