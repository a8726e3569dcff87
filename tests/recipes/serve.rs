//! A resident model without a transport: requests as values, typed answers.

use colloquy::adapter::AdapterOrigin;
use colloquy::error::Error;
use colloquy::experiment::{DeviceOptions, Remembered, Said, Silent, Wanted};
use colloquy::serve::request::Request;
use colloquy::serve::{Answer, Server, ServerOptions};
use serde_json::{Value, json};

fn server() -> Server {
    let options = ServerOptions { seed: 7, max_loras: 2, max_lora_rank: 8, training: true };
    let mut heard = Remembered::default();
    let server =
        Server::open(Wanted::of_model("embedded"), options, &DeviceOptions::default(), &mut heard).unwrap();
    assert!(heard.0.iter().any(|s| matches!(s, Said::Line(l) if l.starts_with("memory "))), "{:?}", heard.0);
    server
}

#[test]
fn requests_are_answered_without_a_transport() {
    let mut server = server();
    assert_eq!(server.greeting()["adapters"], json!([]));
    let ask = |server: &mut Server, request: Request| {
        server.answer(request, "here", &mut Silent).map(|response| response.result)
    };
    let load = |name: &str, rank: usize| Request::Load {
        adapter: name.into(),
        source: AdapterOrigin::parse(&format!("new:rank={rank}")).unwrap(),
    };
    assert!(matches!(ask(&mut server, load("a", 8)), Ok(Answer::Done)));
    let error = |result: Result<Answer, Error>| result.unwrap_err().to_string();
    assert!(error(ask(&mut server, load("a", 8))).starts_with("here: adapter: an adapter is called `a`"));
    assert!(error(ask(&mut server, load("b", 16))).contains("found rank 16, expected at most 8"));
    let copy = Request::Clone { adapter: "a".into(), to: "b".into() };
    assert!(matches!(ask(&mut server, copy), Ok(Answer::Done)));
    assert!(error(ask(&mut server, load("c", 8))).contains("there are 2 already"));
    match ask(&mut server, Request::List) {
        Ok(Answer::Adapters { adapters }) => assert_eq!(adapters, ["a", "b"]),
        other => panic!("{other:?}"),
    }
    assert!(error(ask(&mut server, Request::Drop { adapter: "z".into() })).contains("there are a, b"));
}

#[test]
fn json_is_read_into_requests_and_answers_are_written_as_json() {
    let mut server = server();
    let mut ask = |line: Value| {
        let (id, request) = server.read(line.to_string().as_bytes(), "here");
        let response = server.answer(request.unwrap(), "here", &mut Silent).unwrap();
        (id, serde_json::to_value(&response).unwrap(), response)
    };
    let record = json!({"text": "3+4=", "n": 2, "max_tokens": 3, "source": "x"});
    let (id, written, response) =
        ask(json!({"id": [1], "op": "generate", "records": [record], "prompt_tokens": true}));
    assert_eq!((id, &written["ignored"]), (json!([1]), &json!({"source": 1})));
    let Answer::Continued { records } = response.result else { panic!("{written}") };
    assert_eq!(records.iter().map(|r| r.index).collect::<Vec<_>>(), [0, 1]);
    for (record, written) in records.iter().zip(written["result"]["records"].as_array().unwrap()) {
        assert_eq!(written["tokens"], json!(record.tokens));
        assert_eq!(written["logprobs"], json!(record.logprobs));
        assert_eq!(written["prompt_tokens"], json!(record.prompt_tokens.as_ref().unwrap()));
        let names: Vec<&String> = written.as_object().unwrap().keys().collect();
        let order =
            ["id", "adapter", "index", "text", "tokens", "logprobs", "finish_reason", "prompt_tokens"];
        assert_eq!(names, order);
    }
    let (_, written, response) = ask(json!({"op": "score", "records": [{"text": "3+4=7", "id": "s"}]}));
    assert!(response.ignored.is_empty() && written.get("ignored").is_none());
    let Answer::Scored { records } = response.result else { panic!("{written}") };
    assert_eq!((records[0].id.clone(), records[0].logprobs[0]), (json!("s"), None));
    assert_eq!(records[0].logprobs.len(), records[0].tokens.len());
    assert!(records[0].logprobs[1..].iter().all(|l| l.is_some_and(|l| l <= 0.0)));

    let (id, request) = server.read(b"{\"id\": 5, \"op\": \"sing\"}", "here");
    assert_eq!(id, json!(5));
    assert!(request.err().unwrap().to_string().starts_with("here: unknown variant `sing`"));
}
