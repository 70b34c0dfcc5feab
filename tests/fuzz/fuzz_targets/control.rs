//! The operator's socket: a request that is taken prints as one line that is taken again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugsocket::internals::control_request;

fuzz_target!(|line: &str| {
    let Ok(printed) = control_request(line) else { return };
    assert!(!printed.contains('\n'), "{printed:?}");
    assert_eq!(control_request(&printed).as_deref(), Ok(&printed[..]));
    // Nothing that was said is left out. An array is taken as well (serde's second form of an enum); it cannot have too much.
    let said: serde_json::Value = serde_json::from_str(line).expect("a request is JSON");
    let kept: serde_json::Value = serde_json::from_str(&printed).expect("a request is JSON");
    if let Some(said) = said.as_object() {
        assert!(
            said.iter().all(|(key, value)| kept.get(key) == Some(value)),
            "{line:?} {printed:?}"
        );
    }
    // A line end of either kind belongs to the line.
    assert_eq!(control_request(&format!("{line}\r\n")).as_deref(), Ok(&printed[..]));
});
