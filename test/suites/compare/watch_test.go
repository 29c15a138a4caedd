// SPDX-License-Identifier: Apache-2.0

package compare

// lives are all that can happen to an object, and the end of the watch.
var lives = during(
	create(secret("d", `"labels":{"app":"x"}`)),
	merge("/d", `{"data":{"k":"dw=="}}`),
	merge("/d", `{"data":{"k":"dw=="}}`), // No event: nothing has changed.
	merge("/d", `{"metadata":{"labels":{"app":"y"}}}`),
	merge("/d", `{"metadata":{"labels":{"app":"x"}}}`),
	merge("/d", `{"metadata":{"finalizers":["example.com/f"]}}`),
	del("/d"),
	merge("/d", `{"metadata":{"finalizers":null}}`),
	create(secret("e", `"labels":{"app":"x"}`)),
	del("/e"),
	create(secret("f", `"labels":{"app":"x","last":"x"}`)),
)

var watchRows = []row{
	{name: "watch", given: three, call: watch(""), during: lives},
	{name: "watch from version 0", given: three, call: watch("resourceVersion=0"), during: lives},
	{name: "watch from the version", given: three, call: watch("resourceVersion=$rv"), during: lives},
	{name: "watch from an old version", given: given(append(three, merge("/a", `{"data":{"k":"dw=="}}`), del("/b"))...), call: watch("resourceVersion=$rv1"), during: lives},
	{name: "watch from an old version what was before it", given: given(append(three, del("/b"))...), call: watch("resourceVersion=$rv2"), during: during(last)},
	{name: "watch from a future version", given: three, call: watch("resourceVersion=$future&timeoutSeconds=2"), differs: differences{"Code": "a watch that stays silent hides that a store was put back; clients list again upon the error", "Body": "a watch that stays silent hides that a store was put back; clients list again upon the error", "Ended": "a watch that stays silent hides that a store was put back; clients list again upon the error"}},
	{name: "watch from a version that is none", given: three, call: watch("resourceVersion=x")},
	{name: "watch with a match", given: three, call: watch("resourceVersion=$rv&resourceVersionMatch=Exact")},
	{name: "watch with a match and no version", given: three, call: watch("resourceVersionMatch=NotOlderThan")},
	{name: "watch with a continue token", given: given(append(three, get("?limit=1"))...), call: watch("continue=$continue&timeoutSeconds=2")},
	{name: "watch with a limit", given: three, call: watch("limit=1"), during: during(last)},
	{name: "watch that is none", given: three, call: get("?watch=maybe&timeoutSeconds=1")},
	{name: "watch of 0", given: three, call: get("?watch=0")},
	{name: "watch with a timeout", given: three, call: watch("timeoutSeconds=1")},
	{name: "watch with a timeout that is none", given: three, call: watch("timeoutSeconds=x")},
	{name: "watch a namespace that is not there", call: get("/api/v1/namespaces/$ns-missing/secrets?watch=true&timeoutSeconds=1")},
	{name: "watch all namespaces", given: three, call: get("/api/v1/secrets?watch=true&fieldSelector=metadata.namespace=$ns"), during: lives},

	{name: "watch by a label", given: three, call: watch("labelSelector=app=x"), during: lives},
	{name: "watch by a label from the version", given: three, call: watch("labelSelector=app=x&resourceVersion=$rv"), during: lives},
	{name: "watch by a label from an old version", given: given(append(three, merge("/a", `{"metadata":{"labels":{"app":"y"}}}`), del("/c"))...), call: watch("labelSelector=app=x&resourceVersion=$rv1"), during: lives},
	{name: "watch by a name", given: three, call: watch("fieldSelector=metadata.name=f"), during: lives},
	{name: "watch by a name what is deleted and made again", given: three, call: watch("fieldSelector=metadata.name=a"),
		during: during(create(secret("d", "")), del("/a"), create(labelled("a", "last")))},
	{name: "watch by a type", given: three, call: watch("fieldSelector=type=example.com/t"),
		during: during(create(secret("d", "")), del("/b"), create(secret("e", `"labels":{"last":"x"}`, `"type":"example.com/t"`)))},
	{name: "watch by a selector that is none", given: three, call: watch("labelSelector=app+x")},
	{name: "watch by a field that is not for it", given: three, call: watch("fieldSelector=data=x"), differs: saysMore},
	{name: "watch one by its name", given: three, call: get("/a?watch=true&timeoutSeconds=1")},

	{name: "watch as a table", given: three, call: watch("").accepting(tableType), during: lives},
	{name: "watch as a table with whole objects", given: three, call: watch("includeObject=Object").accepting(tableType), during: lives},
	{name: "watch as a table without objects", given: three, call: watch("includeObject=None&timeoutSeconds=2").accepting(tableType), during: during(last)},
	{name: "watch metadata", given: three, call: watch("").accepting(metadataOnly), during: lives},
	{name: "watch metadata by a label", given: three, call: watch("labelSelector=app=x").accepting(metadataOnly), during: lives},
	{name: "watch as a list of metadata", given: three, call: watch("timeoutSeconds=1").accepting(metadataLists)},
	{name: "watch as something unknown", given: three, call: watch("timeoutSeconds=1").accepting("application/json;as=Nothing;v=v1;g=meta.k8s.io")},
	{name: "watch as a stream", given: three, call: watch("").accepting("application/json;stream=watch"), during: during(last)},
	{name: "watch as YAML", given: three, call: watch("timeoutSeconds=1").accepting("application/yaml")},
	{name: "watch, by the old path", given: three, call: get("/api/v1/watch/namespaces/$ns/secrets"), during: lives},
	{name: "watch one, by the old path", given: three, call: get("/api/v1/watch/namespaces/$ns/secrets/a"),
		during: during(create(secret("d", "")), merge("/a", `{"metadata":{"labels":{"last":"x"}}}`))},
}

// watchListRows are about what comes before live events, and bookmarks.
var watchListRows = []row{
	{name: "watch with initial events", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan"), during: during(last)},
	{name: "watch with initial events and bookmarks", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"), during: lives},
	{name: "watch with initial events of nothing", call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"), during: during(last)},
	{name: "watch with initial events from version 0", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0"), during: during(last)},
	{name: "watch with initial events from a version", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=$rv1"), during: during(last)},
	{name: "watch with initial events from a future version", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=$future&timeoutSeconds=5")},
	{name: "watch with initial events without a match", given: three, call: watch("sendInitialEvents=true")},
	{name: "watch with initial events and another match", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=$rv")},
	{name: "watch with initial events by a label", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=app=x"), during: lives},
	{name: "watch with initial events as metadata", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true").accepting(metadataOnly), during: lives},
	{name: "watch with initial events as a table", given: three, call: watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true").accepting(tableType), during: during(last)},
	{name: "watch without initial events", given: three, call: watch("sendInitialEvents=false&resourceVersionMatch=NotOlderThan"), during: during(last)},
	{name: "watch without initial events from version 0", given: three, call: watch("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0"), during: during(last)},
	{name: "watch without initial events from a version", given: three, call: watch("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=$rv1"), during: during(last)},
	{name: "watch with initial events that are none", given: three, call: watch("sendInitialEvents=maybe")},
	{name: "watch with bookmarks", given: three, call: watch("allowWatchBookmarks=true&timeoutSeconds=6"), during: during(create(secret("d", "")))},
	{name: "watch with bookmarks from the version", given: three, call: watch("allowWatchBookmarks=true&resourceVersion=$rv&timeoutSeconds=6"), during: during(create(secret("d", "")))},
	{name: "watch with bookmarks that are none", given: three, call: watch("allowWatchBookmarks=maybe&timeoutSeconds=6"), during: during(create(secret("d", "")))},
}
