//! Chunks: the joiner behaves like a simple model.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::chunk::{Form, Joiner, LimitExceeded, Step};
use plugsocket_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let (max_message, max_chunks) = (8 * input.below(30), input.below(6));
    let mut joiner = Joiner::new(max_message, max_chunks);
    let mut open: Option<Vec<Vec<u8>>> = None;
    while !input.is_empty() {
        let choice = input.byte();
        let form = [Form::Text, Form::Unchecked, Form::Binary][usize::from(choice) % 3];
        let message = match choice >> 5 {
            0 | 1 => b"bufferON".to_vec(),
            2 | 3 => b"bufferOFF".to_vec(),
            _ => input.piece().to_vec(),
        };
        // Text messages have been validated as UTF-8 before.
        let form = match form {
            Form::Text if std::str::from_utf8(&message).is_err() => Form::Unchecked,
            form => form,
        };
        let expected = model(&mut open, &message, form, (max_message, max_chunks));
        assert_eq!(joiner.take(Bytes::from(message), form), expected);
        assert_eq!(joiner.is_open(), open.is_some());
    }
});

fn model(
    open: &mut Option<Vec<Vec<u8>>>,
    message: &[u8],
    form: Form,
    (max_message, max_chunks): (usize, usize),
) -> Step {
    let is_text = form != Form::Binary;
    let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
        Ok(text) => Step::Deliver(text.into()),
        Err(_) => Step::Invalid,
    };
    if is_text && message == b"bufferON" {
        *open = Some(Vec::new());
        return Step::Acknowledge;
    }
    let Some(chunks) = open else {
        return match form {
            Form::Unchecked => text(message.to_vec()),
            _ => Step::Deliver(Bytes::copy_from_slice(message)),
        };
    };
    if is_text && message == b"bufferOFF" {
        let whole = chunks.concat();
        *open = None;
        return text(whole);
    }
    chunks.push(message.to_vec());
    if chunks.len() > max_chunks {
        *open = None;
        return Step::LimitExceeded(LimitExceeded::Chunks { max: max_chunks });
    }
    if chunks.concat().len() > max_message {
        *open = None;
        return Step::LimitExceeded(LimitExceeded::Bytes { max_bytes: max_message });
    }
    Step::Acknowledge
}
