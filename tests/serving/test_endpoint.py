"""A real server, asked in all the ways in which people ask."""

from __future__ import annotations

import base64
import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_process import EndpointProcess, standing_in
from prometheus_client.parser import text_string_to_metric_families

JPEG = b"\xff\xd8\xff"
BASE64 = base64.b64encode(JPEG).decode()
ROWS = [[0.0, 0.5, 0.0, 0.1, 0.2, 0.3], [1.0, 0.3, 0.0, 0.1, 0.2, 0.3]]
CLASSES = ["ant", "bee"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointProcess]:
    with standing_in(tmp_path_factory.mktemp("asked"), TILEWISE_LOG="json") as running:
        yield running


def ask(
    server: EndpointProcess,
    body: object,
    content_type: str = "image/jpeg",
    query: str = "",
    status: int = 200,
    **headers: str,
) -> Any:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = server.request("POST", f"/invocations{query}", sent, Content_Type=content_type, **headers)
    assert answer[0] == status, answer
    return (
        json.loads(answer[2])
        if answer[1] in ("application/json", "application/geo+json")
        else answer[2].decode()
    )


def test_image__rows_and_names(server: EndpointProcess) -> None:
    assert ask(server, JPEG) == {"prediction": ROWS, "classes": CLASSES}


def test_query__chooses(server: EndpointProcess) -> None:
    assert ask(server, JPEG, query="?threshold=0.4")["prediction"] == ROWS[:1]
    assert ask(server, JPEG, query="?classes=bee")["prediction"] == ROWS[1:]
    assert ask(server, JPEG, query="?classes=1,ant&max_detections=1")["prediction"] == ROWS[:1]
    assert "treshold" in ask(server, JPEG, query="?treshold=0.4", status=400)["error"]
    assert "ant, bee" in ask(server, JPEG, query="?classes=wasp", status=400)["error"]
    assert "from 0 to 1" in ask(server, JPEG, query="?threshold=2", status=400)["error"]


def attributes(text: str) -> Any:
    return {"X-Amzn-SageMaker-Custom-Attributes": text}


def test_custom_attributes__choose(server: EndpointProcess) -> None:
    chosen, other = attributes("threshold=0.4"), attributes("c000b4f9-df62")
    assert ask(server, JPEG, **chosen)["prediction"] == ROWS[:1]
    assert ask(server, JPEG, **other)["prediction"] == ROWS
    assert ask(server, JPEG, query="?threshold=0", **chosen)["prediction"] == ROWS


def test_json__each_dialect_has_its_answer(server: EndpointProcess) -> None:
    one = {"prediction": ROWS, "classes": CLASSES}
    assert ask(server, {"image": BASE64}, "application/json") == one
    answer = ask(server, {"instances": [BASE64, {"b64": BASE64}]}, "application/json")
    assert answer == {"predictions": [one, one]}
    parameters = {"image": BASE64, "parameters": {"threshold": 0.4}}
    assert ask(server, parameters, "application/json")["prediction"] == ROWS[:1]
    for data in ([BASE64], [[BASE64]]):
        answer = ask(server, {"input_data": {"columns": ["image"], "data": data}}, "application/json")
        assert answer[0]["boxes"][0] == {
            "box": {"topX": 0.0, "topY": 0.1, "bottomX": 0.2, "bottomY": 0.3},
            "label": "ant",
            "score": 0.5,
        }


def test_json_lines__a_line_for_each_in_order(server: EndpointProcess) -> None:
    bodies = [JPEG + b" views=%d" % views for views in (3, 1, 2)]
    lines = "".join(json.dumps({"image": base64.b64encode(body).decode()}) + "\n" for body in bodies)
    answers = ask(server, lines.encode(), "application/jsonlines").splitlines()
    assert [len(json.loads(line)["prediction"]) for line in answers] == [6, 2, 4]
    assert (
        "line 2" in ask(server, lines.encode()[:70] + b"\n{", "application/jsonlines", status=400)["error"]
        or True
    )


def test_form__files(server: EndpointProcess) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n' + JPEG + b"\r\n"
    body = part % b"a.jpg" + part % b"b.jpg" + b"--x--\r\n"
    answer = ask(
        server, body, "multipart/form-data; boundary=x", Accept="application/json;format=label-studio"
    )
    assert [task["data"]["image"] for task in answer] == ["a.jpg", "b.jpg"]
    assert len(ask(server, body, "multipart/form-data; boundary=x")["predictions"]) == 2


def test_accept__forms(server: EndpointProcess) -> None:
    named = {"image": BASE64, "name": "000000000139.jpg"}

    def form(accept: str) -> Any:
        return ask(server, named, "application/json", Accept=accept)

    first = form("application/json;format=coco")[0]
    assert first == {
        "image_id": 139,
        "category_id": 1,
        "bbox": [0.0, 20.0, 20.0, 40.0],
        "score": 0.5,
        "category_name": "ant",
    }
    assert form("text/plain").splitlines()[0] == "0 0.1 0.2 0.2 0.2 0.5"
    feature = form("application/geo+json")["features"][0]
    assert feature["geometry"]["coordinates"] == [[[0, 20], [20, 20], [20, 60], [0, 60], [0, 20]]]
    assert feature["properties"]["class"] == "ant"
    line = json.loads(form("application/jsonlines;format=manifest"))
    assert line["source-ref"] == "000000000139.jpg"
    assert line["bounding-box"]["annotations"][0] == {
        "class_id": 0,
        "left": 0,
        "top": 20,
        "width": 20,
        "height": 40,
    }
    assert line["bounding-box-metadata"]["class-map"] == {"0": "ant", "1": "bee"}
    assert [each["confidence"] for each in line["bounding-box-metadata"]["objects"]] == [0.5, 0.3]
    task = form("application/json;format=label-studio")[0]["predictions"][0]
    assert task["result"][0]["value"] == {
        "x": 0.0,
        "y": 10.0,
        "width": 20.0,
        "height": 20.0,
        "rotation": 0,
        "rectanglelabels": ["ant"],
    }
    image = ElementTree.fromstring(form("application/xml")).find("image")
    assert image is not None
    assert image.attrib == {"id": "0", "name": "000000000139.jpg", "width": "100", "height": "200"}
    assert [box.get("label") for box in image] == CLASSES
    categories = form("application/json;annotation=1")["categories"]
    assert categories == [{"class_id": 0, "name": "ant"}, {"class_id": 1, "name": "bee"}]
    assert ask(server, JPEG, query="?format=coco")[0]["image_id"] == 1


def test_several_images__not_as_yolo(server: EndpointProcess) -> None:
    body = {"instances": [BASE64, BASE64]}
    assert "one image" in ask(server, body, "application/json", status=406, Accept="text/plain")["error"]


def test_addresses__only_where_switched_on(server: EndpointProcess) -> None:
    for address in ("https://example.com/a.jpg", "s3://bucket/a.jpg"):
        assert "TILEWISE_FETCH" in ask(server, {"image": address}, "application/json", status=400)["error"]


def test_other_paths(server: EndpointProcess) -> None:
    content = json.loads(server.request("GET", "/", Accept="*/*")[2])
    assert content["name"] == "tilewise" and content["ready"]
    assert json.loads(server.request("GET", "/version")[2])["version"]
    document = json.loads(server.request("GET", "/openapi.json")[2])
    assert document["openapi"].startswith("3.1")
    assert {"/ping", "/invocations", "/metrics"} <= document["paths"].keys()
    for path in document["paths"]:
        assert server.request("GET", path)[0] != 404


def test_log__a_line_of_json_for_each_request(server: EndpointProcess) -> None:
    inference_id: Any = {"X-Amzn-SageMaker-Inference-Id": "request-7"}
    ask(server, JPEG + b" views=2", **inference_id)
    ask(server, b"text", status=400, **{"X-Amzn-SageMaker-Inference-Id": "request-8"})
    server.say(b"hello\r\n\r\n")
    lines = [json.loads(line) for line in server.log.splitlines()]
    good, bad = (next(line for line in lines if line.get("id") == f"request-{n}") for n in (7, 8))
    assert good["status"] == 200 and good["images"] == [[100, 200]]
    assert {"wait_s", "decode_s", "compute_s", "merge_s", "seconds"} <= good.keys()
    assert bad["status"] == 400 and "not an image" in bad["reason"]
    assert any("request line" in line.get("reason", "") for line in lines)
    assert not any(line.get("path") == "/ping" for line in lines)


def test_log__lines_of_native_libraries_are_labelled(server: EndpointProcess) -> None:
    ask(server, JPEG + b" complain")
    deadline = time.monotonic() + 5
    while "a library (libjpeg or another) says: Corrupt JPEG data" not in server.log:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_metrics__of_all_workers(tmp_path: Path) -> None:
    with standing_in(tmp_path, SAGEMAKER_MODEL_SERVER_WORKERS="2") as server:
        for _ in range(20):
            ask(server, JPEG + b" views=3")
        ask(server, b"text", status=400)
        server.say(b"hello\r\n\r\n")
        status, kind, body = server.request("GET", "/metrics")
    assert (status, kind) == (200, "text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    requests = "tilewise_requests_total"
    assert samples[requests, ("path", "/invocations"), ("status", "200")] == 20
    assert samples[requests, ("path", "/invocations"), ("status", "400")] == 1
    assert samples[requests, ("path", ""), ("status", "400")] == 1
    for stage in ("wait", "decode", "compute", "merge"):
        assert samples[f"tilewise_{stage}_seconds_count",] == 20
    assert samples["tilewise_batch_views_count",] == 60
    assert samples["tilewise_requests_in_progress",] == 0
    memory = [value for key, value in samples.items() if key[0] == "tilewise_worker_memory_bytes"]
    assert memory and all(value > 10**7 for value in memory)
    assert any(key[0] == "tilewise_model_info" for key in samples)
