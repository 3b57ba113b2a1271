//! The parameters of a request's query, taken one by one, so that nothing in it goes unseen.

use percent_encoding::percent_decode_str;

use crate::facade::Paging;
use crate::problem::{Code, Problem, echo};

/// Parameters that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query, the text behind `?`.
    ///
    /// # Errors
    /// `invalid-field` when it is no UTF-8 or names a parameter twice.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
            let (Ok(name), Ok(value)) = (decode(name), decode(value)) else {
                return Err(Problem::new(Code::InvalidField, "The query is not UTF-8."));
            };
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                let detail = format!("The parameter `{}` stands there twice.", echo(&name));
                return Err(Problem::new(Code::InvalidField, detail));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Takes a parameter.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(held, _)| held == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes `true` or `false`; absence is false.
    ///
    /// # Errors
    /// `invalid-field`.
    pub fn flag(&mut self, name: &'static str) -> Result<bool, Problem> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::new(Code::InvalidField, format!("The parameter `{name}` must be true or false."))),
        }
    }

    /// Takes the two parameters of lists.
    ///
    /// # Errors
    /// `invalid-field`.
    pub fn paging(&mut self) -> Result<Paging, Problem> {
        let (page, per_page) = (self.take("page"), self.take("per_page"));
        Paging::parse(page.as_deref(), per_page.as_deref())
    }

    /// Says that nothing else may be here.
    ///
    /// # Errors
    /// `invalid-field`, for the first parameter that nobody took.
    pub fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let detail = format!("There is no parameter `{}` here.", echo(name));
                Err(Problem::new(Code::InvalidField, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_and_none_is_left_over() {
        let mut query = Query::parse("page=2&per_page=5&dry_run=true&&").unwrap();
        let paging = query.paging().unwrap();
        assert_eq!((paging.page, paging.per_page, query.flag("dry_run").unwrap()), (2, 5, true));
        assert!(!query.flag("dry_run").unwrap());
        query.finish().unwrap();
        assert!(Query::parse("dryrun=true").unwrap().finish().is_err());
        for bad in ["a=1&a=2", "a=%ff"] {
            assert_eq!(Query::parse(bad).unwrap_err().code(), Code::InvalidField, "{bad}");
        }
        assert!(Query::parse("dry_run=yes").unwrap().flag("dry_run").is_err());
        assert!(Query::parse("page=0").unwrap().paging().is_err());
    }
}
