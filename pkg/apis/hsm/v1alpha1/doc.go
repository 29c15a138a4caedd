// SPDX-License-Identifier: Apache-2.0

// +k8s:openapi-gen=true
// +k8s:deepcopy-gen=package
// +k8s:conversion-gen=j5t.io/hsm/pkg/apis/hsm
// +k8s:defaulter-gen=TypeMeta
// +k8s:validation-gen=TypesWithField=TypeMeta
// +k8s:openapi-model-package=io.j5t.hsm.pkg.apis.hsm.v1alpha1
// +groupName=hsm.j5t.io

// Package v1alpha1 is the version v1alpha1 of the API group hsm.j5t.io, as
// clients see it. Its comments are what kubectl explain shows. It never holds
// logic beyond defaults and conversion. Its OpenAPI models are called after its Go
// path, the only name that applyconfiguration-gen knows them by.
package v1alpha1
