// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"j5t.io/hsm/pkg/apis/hsm/v1alpha1"
)

// present are the HSMSecrets in fullNamespace.
var present = []string{"a", "b", "c"}

// victim is an HSMSecret in changedNamespace that is there to be deleted.
func victim(id string) string { return "victim-" + id }

// partialError says that less was told than there is, as if it were all.
type partialError struct{ got string }

func (e partialError) Error() string { return fmt.Sprintf("told %s, of %v", e.got, present) }

func asPartial(err error, target *partialError) bool { return errors.As(err, target) }

// request is one kind of question. Where it succeeds, its answer was the truth.
type request struct {
	name string
	ask  func(ctx context.Context, id string) error
	// absent: the truth is 404.
	absent bool
	// empty: the truth is known without the token.
	empty bool
	// changes: it is not only a question.
	changes bool
}

var requests = []request{
	{name: "get", ask: func(ctx context.Context, _ string) error {
		secret, err := secrets.HSMSecrets(fullNamespace).Get(ctx, "b", metav1.GetOptions{})
		if err == nil && string(secret.Data["password"]) != "b" {
			return partialError{fmt.Sprintf("a value of %q", secret.Data["password"])}
		}
		return err
	}},
	{name: "get metadata", ask: func(ctx context.Context, _ string) error {
		_, err := metadataOnly.Resource(hsmSecrets).Namespace(fullNamespace).Get(ctx, "b", metav1.GetOptions{})
		return err
	}},
	{name: "get an absent name", absent: true, ask: func(ctx context.Context, _ string) error {
		_, err := secrets.HSMSecrets(fullNamespace).Get(ctx, "nothing", metav1.GetOptions{})
		return err
	}},
	{name: "get metadata of an absent name", absent: true, ask: func(ctx context.Context, _ string) error {
		_, err := metadataOnly.Resource(hsmSecrets).Namespace(emptyNamespace).Get(ctx, "nothing", metav1.GetOptions{})
		return err
	}},
	{name: "list", ask: list(fullNamespace, metav1.ListOptions{})},
	{name: "list in pages", ask: func(ctx context.Context, _ string) error {
		var names []string
		var next string
		for {
			page, err := secrets.HSMSecrets(fullNamespace).List(ctx, metav1.ListOptions{Limit: 1, Continue: next})
			if err != nil {
				return err
			}
			names = append(names, namesOf(page.Items)...)
			if next = page.Continue; next == "" {
				return whole(names)
			}
		}
	}},
	{name: "list of any revision", ask: list(fullNamespace, metav1.ListOptions{ResourceVersion: "0"})},
	{name: "list all namespaces", ask: list(metav1.NamespaceAll, metav1.ListOptions{})},
	{name: "list one by its name", ask: func(ctx context.Context, _ string) error {
		found, err := secrets.HSMSecrets(fullNamespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=a"})
		if err == nil && len(found.Items) != 1 {
			return partialError{fmt.Sprintf("%d objects named a", len(found.Items))}
		}
		return err
	}},
	{name: "list metadata", ask: listMetadata(fullNamespace, metav1.ListOptions{})},
	{name: "list metadata of all namespaces", ask: listMetadata(metav1.NamespaceAll, metav1.ListOptions{ResourceVersion: "0"})},
	{name: "list an empty namespace", empty: true, ask: func(ctx context.Context, _ string) error {
		found, err := secrets.HSMSecrets(emptyNamespace).List(ctx, metav1.ListOptions{})
		if err == nil && (len(found.Items) > 0 || found.ResourceVersion == "" || found.ResourceVersion == "0") {
			return fmt.Errorf("%d objects at %q in an empty namespace", len(found.Items), found.ResourceVersion)
		}
		return err
	}},
	{name: "list metadata of an empty namespace", empty: true, ask: func(ctx context.Context, _ string) error {
		_, err := metadataOnly.Resource(hsmSecrets).Namespace(emptyNamespace).List(ctx, metav1.ListOptions{})
		return err
	}},
	{name: "deletecollection in an empty namespace", empty: true, ask: func(ctx context.Context, _ string) error {
		return metadataOnly.Resource(hsmSecrets).Namespace(emptyNamespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	}},
	{name: "watch", ask: follow(false, metav1.ListOptions{})},
	{name: "watch with initial events", ask: follow(false, watchList)},
	{name: "watch metadata with initial events", ask: follow(true, watchList)},
	{name: "create", changes: true, ask: func(ctx context.Context, id string) error {
		_, err := secrets.HSMSecrets(changedNamespace).Create(ctx, newSecret("new-"+id), metav1.CreateOptions{})
		return err
	}},
	{name: "patch", changes: true, ask: func(ctx context.Context, id string) error {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"state":%q}}}`, id)
		_, err := secrets.HSMSecrets(changedNamespace).Patch(ctx, present[0], types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}},
	{name: "apply", changes: true, ask: func(ctx context.Context, id string) error {
		patch := fmt.Appendf(nil, `{"apiVersion":"hsm.j5t.io/v1alpha1","kind":"HSMSecret","metadata":{"name":%q},"data":{"password":"b25l"}}`, "applied-"+id)
		_, err := secrets.HSMSecrets(changedNamespace).Patch(ctx, "applied-"+id, types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: "faults"})
		return err
	}},
	{name: "delete", changes: true, ask: func(ctx context.Context, id string) error {
		return secrets.HSMSecrets(changedNamespace).Delete(ctx, victim(id), metav1.DeleteOptions{})
	}},
	{name: "deletecollection", changes: true, ask: func(ctx context.Context, _ string) error {
		return metadataOnly.Resource(hsmSecrets).Namespace(changedNamespace).DeleteCollection(ctx, metav1.DeleteOptions{},
			metav1.ListOptions{LabelSelector: "selects=nothing"})
	}},
}

func list(namespace string, options metav1.ListOptions) func(context.Context, string) error {
	return func(ctx context.Context, _ string) error {
		found, err := secrets.HSMSecrets(namespace).List(ctx, options)
		if err != nil {
			return err
		}
		return whole(namesOf(found.Items))
	}
}

func listMetadata(namespace string, options metav1.ListOptions) func(context.Context, string) error {
	return func(ctx context.Context, _ string) error {
		found, err := metadataOnly.Resource(hsmSecrets).Namespace(namespace).List(ctx, options)
		if err != nil {
			return err
		}
		var names []string
		for _, item := range found.Items {
			if item.Namespace == fullNamespace {
				names = append(names, item.Name)
			}
		}
		return whole(names)
	}
}

func namesOf(items []v1alpha1.HSMSecret) []string {
	var names []string
	for _, item := range items {
		if item.Namespace == fullNamespace {
			names = append(names, item.Name)
		}
	}
	return names
}

// whole is an error unless a list has told of all there is.
func whole(names []string) error {
	slices.Sort(names)
	if !slices.Equal(names, present) {
		return partialError{fmt.Sprint(names)}
	}
	return nil
}

var watchList = metav1.ListOptions{
	SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
}

// follow watches until all there is was told of, or an error. A stream that ends
// before is none of both.
func follow(metadata bool, options metav1.ListOptions) func(context.Context, string) error {
	options.TimeoutSeconds = ptr.To[int64](10)
	return func(ctx context.Context, _ string) error {
		var w watch.Interface
		var err error
		if metadata {
			w, err = metadataOnly.Resource(hsmSecrets).Namespace(fullNamespace).Watch(ctx, options)
		} else {
			w, err = secrets.HSMSecrets(fullNamespace).Watch(ctx, options)
		}
		if err != nil {
			return err
		}
		defer w.Stop()
		var names []string
		for event := range w.ResultChan() {
			switch event.Type {
			case watch.Error:
				return apierrors.FromObject(event.Object)
			case watch.Added:
				names = append(names, event.Object.(metav1.Object).GetName())
			case watch.Bookmark:
				if event.Object.(metav1.Object).GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
					return whole(names)
				}
			default:
				return fmt.Errorf("an event %s %s", event.Type, strings.Join(names, " "))
			}
			if options.SendInitialEvents == nil && len(names) == len(present) {
				return whole(names)
			}
		}
		return partialError{fmt.Sprintf("%v and then nothing", names)}
	}
}
