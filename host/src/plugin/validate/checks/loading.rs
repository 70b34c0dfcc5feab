//! Opening the library, starting instances, configurations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::Check;
use crate::error::chain;
use crate::plugin::dylib::LoadError;
use crate::plugin::validate::driver::Bench;
use crate::plugin::validate::generator::text;
use crate::plugin::validate::report::{Checked, excerpt, fail, skip, warn};
use crate::plugin::validate::site::{Site, default_bounds};

pub(super) const CHECKS: &[Check] = &[
    Check::new("opens", "the library can be opened, and its ABI is compatible", opens),
    Check::new("unwinds", "it is not built with `panic = \"abort\"`", unwinds),
    Check::new("starts", "`start` accepts the settings within the time limit", starts),
    Check::new("starts-quickly", "`start` takes at most 100 ms", starts_quickly),
    Check::new("starts-without-settings", "`start` accepts `{}`", starts_without_settings),
    Check::new("starts-twice", "two instances exist at once, as at every reload", starts_twice),
    Check::new(
        "refuses-other-json",
        "`start` refuses a configuration that is not an object, with a sentence",
        refuses_other_json,
    ),
    Check::new(
        "refuses-unknown-settings",
        "`start` refuses a key that it does not know, with a sentence",
        refuses_unknown_settings,
    ),
    Check::new(
        "refuses-bad-settings",
        "`start` refuses the configuration of `--bad-settings`, with a sentence",
        refuses_bad_settings,
    ),
    Check::new(
        "schema-is-valid",
        "`CONFIG_SCHEMA` is a valid JSON schema, and the settings conform to it",
        schema_is_valid,
    ),
    Check::new(
        "schema-agrees-with-start",
        "what violates `CONFIG_SCHEMA` is refused, and `start` accepts what conforms to it",
        schema_agrees,
    ),
    Check::new(
        "takes-changed-settings",
        "`config_changed` accepts the same settings, refuses others with a sentence, and the \
         instance continues",
        takes_changed_settings,
    ),
];

fn opens(bench: &Bench) -> Checked {
    match bench.opened() {
        // The check `unwinds` reports it.
        Ok(_) | Err(LoadError::PanicAborts) => Ok(()),
        Err(error) => Err(fail(chain(error))),
    }
}

fn unwinds(bench: &Bench) -> Checked {
    match bench.opened() {
        Err(error @ LoadError::PanicAborts) => Err(fail(chain(error))),
        _ => Ok(()),
    }
}

fn starts(bench: &Bench) -> Checked {
    bench.serve().map(drop)
}

fn starts_quickly(bench: &Bench) -> Checked {
    const LIMIT: Duration = Duration::from_millis(100);
    let mut shortest = Duration::MAX;
    // The shortest of some, because the machine may be busy.
    for _ in 0..3 {
        let begun = Instant::now();
        drop(bench.serve()?);
        shortest = shortest.min(begun.elapsed());
    }
    if shortest <= LIMIT {
        return Ok(());
    }
    let millis = shortest.as_millis();
    Err(warn(format!(
        "`start` takes {millis} ms; a reload waits for it, so start work on a thread"
    )))
}

/// Starts an instance; returns why it refused.
fn refusal(bench: &Bench, settings: &str) -> Checked<Option<String>> {
    let site = Arc::new(Site::new(default_bounds()));
    Ok(bench.start(&site, settings)?.err())
}

/// Expects a refusal with a sentence; returns whether there was one.
fn refuses(bench: &Bench, settings: &str) -> Checked<bool> {
    match refusal(bench, settings)? {
        None => Ok(false),
        Some(text) if text.trim().is_empty() => {
            let settings = excerpt(settings);
            Err(fail(format!("`start` refuses {settings} without a sentence for the operator")))
        }
        Some(_) => Ok(true),
    }
}

fn starts_without_settings(bench: &Bench) -> Checked {
    if !refuses(bench, "{}")? {
        return Ok(());
    }
    let text = refusal(bench, "{}")?.unwrap_or_default();
    Err(warn(format!("`start` refuses a resource without settings: {text}")))
}

fn starts_twice(bench: &Bench) -> Checked {
    let (mut first, mut second) = (bench.serve()?, bench.serve()?);
    let (ann, bob) = (first.client()?, second.client()?);
    for app in [&mut first, &mut second] {
        let client = app.client()?;
        app.message(&client, &text("hello"))?;
    }
    second.close(bob)?;
    second.end()?;
    first.message(&ann, &text("hello"))?;
    first.close(ann)
}

fn refuses_other_json(bench: &Bench) -> Checked {
    let mut accepted = Vec::new();
    for settings in ["[]", "null", "7", "\"text\"", "true", ""] {
        if !refuses(bench, settings)? {
            accepted.push(format!("{settings:?}"));
        }
    }
    if accepted.is_empty() {
        return Ok(());
    }
    let accepted = accepted.join(", ");
    Err(warn(format!("`start` accepts {accepted}, which is not an object; use `read_config`")))
}

fn refuses_unknown_settings(bench: &Bench) -> Checked {
    let mut settings = object(&bench.brief.settings);
    settings.insert("plugsocket_unknown".to_owned(), json!(1));
    if refuses(bench, &Value::Object(settings).to_string())? {
        return Ok(());
    }
    let text = "`start` accepts an unknown key, so that nobody notices a misspelt one; use \
                `#[serde(deny_unknown_fields)]`";
    Err(warn(text))
}

fn refuses_bad_settings(bench: &Bench) -> Checked {
    let Some(settings) = &bench.brief.bad_settings else {
        return Err(skip("--bad-settings is not given"));
    };
    if refuses(bench, settings)? {
        return Ok(());
    }
    Err(fail(format!("`start` accepts {}", excerpt(settings))))
}

/// Returns the settings, which the parent has checked to be an object.
fn object(settings: &str) -> Map<String, Value> {
    serde_json::from_str(settings).unwrap_or_default()
}

/// Returns the schema of the library, as JSON and ready for use.
fn schema(bench: &Bench) -> Checked<(Value, jsonschema::Validator)> {
    let text = &bench.generation()?.facts.config_schema;
    if text.is_empty() {
        return Err(skip("it declares no CONFIG_SCHEMA"));
    }
    let parsed: Result<Value, _> = serde_json::from_str(text);
    let schema = parsed.map_err(|error| fail(format!("CONFIG_SCHEMA is not JSON: {error}")))?;
    let validator = jsonschema::validator_for(&schema);
    let validator = validator
        .map_err(|error| fail(format!("CONFIG_SCHEMA is not a valid JSON schema: {error}")))?;
    Ok((schema, validator))
}

fn schema_is_valid(bench: &Bench) -> Checked {
    let (_, validator) = schema(bench)?;
    let settings = Value::Object(object(&bench.brief.settings));
    validator.validate(&settings).map_err(|error| {
        fail(format!("the settings violate CONFIG_SCHEMA at `{}`: {error}", error.instance_path()))
    })
}

fn schema_agrees(bench: &Bench) -> Checked {
    let (schema, validator) = schema(bench)?;
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let settings = object(&bench.brief.settings);
    let mut candidates = vec![Map::new()];
    for key in properties.keys() {
        let values =
            [json!(null), json!(true), json!(0), json!(-1), json!("x"), json!([]), json!({})];
        candidates.extend(values.into_iter().map(|value| {
            let mut changed = settings.clone();
            changed.insert(key.clone(), value);
            changed
        }));
    }
    for candidate in candidates {
        let candidate = Value::Object(candidate);
        let refused = refusal(bench, &candidate.to_string())?;
        let candidate_text = excerpt(&candidate.to_string());
        match refused {
            None if !validator.is_valid(&candidate) => {
                return Err(fail(format!(
                    "{candidate_text} violates CONFIG_SCHEMA and is accepted"
                )));
            }
            Some(text) if validator.is_valid(&candidate) => {
                let text = format!(
                    "{candidate_text} conforms to CONFIG_SCHEMA, but `start` refuses it: {text}"
                );
                return Err(warn(text));
            }
            _ => {}
        }
    }
    Ok(())
}

fn takes_changed_settings(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    let client = app.client()?;
    if let Err(text) = app.change_config(&bench.brief.settings)? {
        return Err(fail(format!("`config_changed` refuses the settings of `start`: {text}")));
    }
    let bad = bench.brief.bad_settings.as_deref();
    for settings in ["[]", r#"{"plugsocket_unknown":1}"#].into_iter().chain(bad) {
        if app.change_config(settings)?.is_err_and(|text| text.trim().is_empty()) {
            let settings = excerpt(settings);
            return Err(fail(format!("`config_changed` refuses {settings} without a sentence")));
        }
    }
    app.message(&client, &text("hello"))?;
    app.close(client)
}
