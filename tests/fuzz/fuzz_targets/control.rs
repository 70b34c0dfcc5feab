//! Control socket: an accepted request prints as one line that parses to the same request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugsocket::internals::control_request;

fuzz_target!(|line: &str| {
    let Ok(printed) = control_request(line) else { return };
    assert!(!printed.contains('\n'), "{printed:?}");
    assert_eq!(control_request(&printed).as_deref(), Ok(&printed[..]));
    // No member is lost. An array (serde's other form of an enum) cannot have additional members.
    let given: serde_json::Value = serde_json::from_str(line).expect("a request is JSON");
    let kept: serde_json::Value = serde_json::from_str(&printed).expect("a request is JSON");
    if let Some(given) = given.as_object() {
        assert!(
            given.iter().all(|(key, value)| kept.get(key) == Some(value)),
            "{line:?} {printed:?}"
        );
    }
    // Both kinds of line ends are accepted.
    assert_eq!(control_request(&format!("{line}\r\n")).as_deref(), Ok(&printed[..]));
});
