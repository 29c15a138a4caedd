// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"strings"
)

var createRows = []row{
	{name: "create", call: a},
	{name: "create with an empty namespace", call: create(secret("a", `"namespace":""`))},
	{name: "create with the namespace", call: create(secret("a", `"namespace":"$ns"`))},
	{name: "create in another namespace", call: create(secret("a", `"namespace":"default"`))},
	{name: "create in no namespace", call: post("/api/v1/secrets", secret("a", ""))},
	{name: "create in a namespace that is not there", call: post("/api/v1/namespaces/$ns-missing/secrets", secret("a", ""))},
	{name: "create in a namespace that is being deleted", given: given(del("/api/v1/namespaces/$ns")), call: a},
	{name: "create what is there", given: given(a), call: a},
	{name: "create what is being deleted", given: given(finalized, del("/a")), call: a},
	{name: "create without a name", call: create(secret("", ""))},
	{name: "create without metadata", call: create(`{"apiVersion":"v1","kind":"Secret","data":{"k":"dg=="}}`)},
	{name: "create with generateName", call: create(secret("", `"generateName":"gen-"`))},
	{name: "create with name and generateName", call: create(secret("a", `"generateName":"gen-"`))},
	{name: "create with a long generateName", call: create(secret("", `"generateName":"`+strings.Repeat("g", 300)+`"`))},
	{name: "create with a generateName that is none", call: create(secret("", `"generateName":"Gen_"`))},
	{name: "create with a resourceVersion", call: create(secret("a", `"resourceVersion":"12"`))},
	{name: "create with a resourceVersion that is none", call: create(secret("a", `"resourceVersion":"twelve"`))},
	{name: "create with a uid", call: create(secret("a", `"uid":"c2d1f0f4-0000-4000-8000-000000000000"`))},
	{name: "create with a creationTimestamp", call: create(secret("a", `"creationTimestamp":"2001-02-03T04:05:06Z"`))},
	{name: "create with a deletionTimestamp", call: create(secret("a", `"deletionTimestamp":"2001-02-03T04:05:06Z"`))},
	{name: "create with a grace period", call: create(secret("a", `"deletionGracePeriodSeconds":30`))},
	{name: "create with a generation", call: create(secret("a", `"generation":7`))},
	{name: "create with a selfLink", call: create(secret("a", `"selfLink":"/a"`))},
	{name: "create with finalizers", call: finalized},
	{name: "create with managedFields", call: create(secret("a", `"managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{}}]`))},
	{name: "create without data", call: create(secret("a", "", `"immutable":false`))},
	{name: "create with null data", call: create(secret("a", "", `"data":null`))},
	{name: "create with an empty value", call: create(secret("a", "", `"data":{"k":""}`))},
	{name: "create with a null value", call: create(secret("a", "", `"data":{"k":null}`))},
	{name: "create with stringData", call: create(secret("a", "", `"stringData":{"k":"v"}`))},
	{name: "create with stringData over data", call: create(secret("a", "", `"data":{"k":"dg==","l":"dg=="},"stringData":{"k":"w"}`))},
	{name: "create with immutable", call: create(secret("a", "", `"immutable":true,"data":{"k":"dg=="}`))},
	{name: "create with a type", call: create(secret("a", "", `"type":"example.com/t"`))},
	{name: "create with an empty type", call: create(secret("a", "", `"type":""`))},

	{name: "create, dry run", call: post("?dryRun=All", secret("a", ""))},
	{name: "create with generateName, dry run", call: post("?dryRun=All", secret("", `"generateName":"gen-"`))},
	{name: "create what is there, dry run", given: given(a), call: post("?dryRun=All", secret("a", ""))},
	{name: "create, dry run of some", call: post("?dryRun=Some", secret("a", ""))},
	{name: "create, dry run twice", call: post("?dryRun=All&dryRun=All", secret("a", ""))},
	{name: "create, dry run of nothing", call: post("?dryRun=", secret("a", ""))},
	{name: "create what is invalid, dry run", call: post("?dryRun=All", secret("A", ""))},
	{name: "create with a field manager", call: post("?fieldManager=me", secret("a", ""))},
	{name: "create with a field manager that is too long", call: post("?fieldManager="+strings.Repeat("m", 129), secret("a", ""))},
	{name: "create with a field manager that cannot be printed", call: post("?fieldManager=%07", secret("a", ""))},
	{name: "create with an unknown field, strict", call: post("?fieldValidation=Strict", unknownField)},
	{name: "create with an unknown field, warn", call: post("?fieldValidation=Warn", unknownField)},
	{name: "create with an unknown field, ignore", call: post("?fieldValidation=Ignore", unknownField)},
	{name: "create with an unknown field", call: create(unknownField)},
	{name: "create with a duplicate field, strict", call: post("?fieldValidation=Strict", duplicateField)},
	{name: "create with a duplicate field, warn", call: post("?fieldValidation=Warn", duplicateField)},
	{name: "create with a duplicate field, ignore", call: post("?fieldValidation=Ignore", duplicateField)},
	{name: "create with an unknown field in metadata, strict", call: post("?fieldValidation=Strict", secret("a", `"colour":"red"`))},
	{name: "create with a field in the wrong case, strict", call: post("?fieldValidation=Strict", secret("a", "", `"Data":{"k":"dg=="}`))},
	{name: "create with field validation that is none", call: post("?fieldValidation=Maybe", secret("a", ""))},
	{name: "create with an option that is none", call: post("?colour=red", secret("a", ""))},
	{name: "create, pretty", call: post("?pretty=true", secret("a", ""))},

	{name: "create an empty body", call: create("")},
	{name: "create what is not JSON", call: create("secret")},
	{name: "create what breaks off", call: create(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"`), differs: saysObject},
	{name: "create a list of names", call: create(`["a"]`)},
	{name: "create with a value that is not base64", call: create(secret("a", "", `"data":{"k":"?"}`))},
	{name: "create with a value that is a number", call: create(secret("a", "", `"data":{"k":7}`))},
	{name: "create with data that is text", call: create(secret("a", "", `"data":"dg=="`))},
	{name: "create without kind and apiVersion", call: create(`{"metadata":{"name":"a"},"data":{"k":"dg=="}}`)},
	{name: "create without apiVersion", call: create(`{"kind":"Secret","metadata":{"name":"a"}}`)},
	{name: "create another kind", call: create(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`), differs: onlyItsKind},
	{name: "create a kind that is not there", call: create(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"a"}}`)},
	{name: "create a list", call: create(`{"apiVersion":"v1","kind":"List","items":[]}`), differs: onlyItsKind},
	{name: "create below a name", call: post("/a", secret("a", ""))},
}

var (
	finalized      = create(secret("a", `"finalizers":["example.com/f"]`))
	unknownField   = secret("a", "", `"colour":"red","data":{"k":"dg=="}`)
	duplicateField = secret("a", "", `"data":{"k":"dg=="},"data":{"k":"dw=="}`)
)

func owner(fields string) call {
	return create(secret("a", `"ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"d"`+fields+`}]`))
}

func data(size int) call {
	return create(secret("a", "", `"data":{"k":"`+strings.Repeat("AAAA", size/3)+strings.Repeat("AA==", size%3)+`"}`))
}

// validationRows are about what may be in an object.
var validationRows = []row{
	{name: "name in upper case", call: create(secret("A", ""))},
	{name: "name with a slash", call: create(secret("a/b", ""))},
	{name: "name of 253 characters", call: create(secret(strings.Repeat("n", 253), ""))},
	{name: "name of 254 characters", call: create(secret(strings.Repeat("n", 254), ""))},
	{name: "name with dots", call: create(secret("a.b.c", ""))},
	{name: "label that is none", call: create(secret("a", `"labels":{"a b":"c"}`))},
	{name: "label with a value that is none", call: create(secret("a", `"labels":{"a":"b c"}`))},
	{name: "annotation that is none", call: create(secret("a", `"annotations":{"a b":"c"}`))},
	{name: "annotations over 256 KiB", call: create(secret("a", `"annotations":{"a":"`+strings.Repeat("x", 256<<10)+`"}`))},
	{name: "finalizer that is none", call: create(secret("a", `"finalizers":["f"]`))},
	{name: "finalizer that is empty", call: create(secret("a", `"finalizers":[""]`))},
	{name: "finalizers of both propagations", call: create(secret("a", `"finalizers":["orphan","foregroundDeletion"]`))},
	{name: "owner", call: owner(`,"uid":"u"`)},
	{name: "owner without a uid", call: owner("")},
	{name: "owner that blocks", call: owner(`,"uid":"u","blockOwnerDeletion":true,"controller":true`)},
	{name: "owner without a version", call: create(secret("a", `"ownerReferences":[{"kind":"Deployment","name":"d","uid":"u"}]`))},
	{name: "owner that is an Event", call: create(secret("a", `"ownerReferences":[{"apiVersion":"events.k8s.io/v1","kind":"Event","name":"d","uid":"u"}]`))},
	{name: "two controllers", call: create(secret("a", `"ownerReferences":[
		{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"u","controller":true},
		{"apiVersion":"apps/v1","kind":"Deployment","name":"e","uid":"v","controller":true}]`))},
	{name: "one owner twice", call: create(secret("a", `"ownerReferences":[
		{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"u"},
		{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"u"}]`))},
	{name: "key that is none", call: create(secret("a", "", `"data":{"a b":"dg=="}`))},
	{name: "key that is empty", call: create(secret("a", "", `"data":{"":"dg=="}`))},
	{name: "key that climbs", call: create(secret("a", "", `"data":{"..":"dg=="}`))},
	{name: "key of 254 characters", call: create(secret("a", "", `"data":{"`+strings.Repeat("k", 254)+`":"dg=="}`))},
	{name: "512 KiB", call: data(1 << 19)},
	{name: "1 MiB, dry run", call: post("?dryRun=All", data(1<<20).body)},
	{name: "over 1 MiB", call: data(1<<20 + 1)},
	{name: "over 3 MiB", call: data(3 << 20)},
	{name: "type tls without its keys", call: create(secret("a", "", `"type":"kubernetes.io/tls"`)), differs: saysMore},
	{name: "type tls with keys that are none", call: create(secret("a", "", `"type":"kubernetes.io/tls","data":{"tls.crt":"dg==","tls.key":"dg=="}`))},
	{name: "type dockerconfigjson without its key", call: create(secret("a", "", `"type":"kubernetes.io/dockerconfigjson"`)), differs: saysMore},
	{name: "type dockerconfigjson that is not JSON", call: create(secret("a", "", `"type":"kubernetes.io/dockerconfigjson","data":{".dockerconfigjson":"dg=="}`)), differs: differences{"message": "that of a Secret shows a part of the value"}},
	{name: "type dockerconfigjson", call: create(secret("a", "", `"type":"kubernetes.io/dockerconfigjson","data":{".dockerconfigjson":"e30="}`))},
	{name: "type dockercfg without its key", call: create(secret("a", "", `"type":"kubernetes.io/dockercfg"`)), differs: saysMore},
	{name: "type dockercfg that is not JSON", call: create(secret("a", "", `"type":"kubernetes.io/dockercfg","data":{".dockercfg":"dg=="}`)), differs: differences{"message": "that of a Secret shows a part of the value"}},
	{name: "type basic-auth without its keys", call: create(secret("a", "", `"type":"kubernetes.io/basic-auth"`)), differs: saysMore},
	{name: "type basic-auth with one key", call: create(secret("a", "", `"type":"kubernetes.io/basic-auth","data":{"username":""}`))},
	{name: "type ssh-auth without its key", call: create(secret("a", "", `"type":"kubernetes.io/ssh-auth"`)), differs: saysMore},
	{name: "type ssh-auth with an empty key", call: create(secret("a", "", `"type":"kubernetes.io/ssh-auth","data":{"ssh-privatekey":""}`)), differs: saysMore},
	{name: "type service-account-token without its annotation", call: create(secret("a", "", `"type":"kubernetes.io/service-account-token"`)), differs: differences{"message": noTokens, "Body.details.causes": noTokens}},
	{name: "type bootstrap token", call: create(secret("a", "", `"type":"bootstrap.kubernetes.io/token"`))},
}
