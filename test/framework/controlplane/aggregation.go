// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
)

const pollInterval = 100 * time.Millisecond

// APIService says how kube-apiserver reaches an aggregated API server on the loopback interface.
type APIService struct {
	GroupVersion schema.GroupVersion
	// Namespace and Name are those of the Service; the serving certificate has to be good for DNSName.
	Namespace, Name string
	// Port is the TCP port on 127.0.0.1.
	Port int
	// CABundle is the PEM of the authority of the serving certificate.
	CABundle []byte
}

// DNSName is what kube-apiserver expects in the serving certificate.
func (s APIService) DNSName() string { return s.Name + "." + s.Namespace + ".svc" }

func (s APIService) objectName() string { return s.GroupVersion.Version + "." + s.GroupVersion.Group }

// RegisterAPIService makes the namespace if need be, a Service of type ExternalName and the APIService,
// and waits until it is available, discoverable, and described by OpenAPI v3.
// One that is registered already is pointed to the new port.
func (c *ControlPlane) RegisterAPIService(ctx context.Context, s APIService) error {
	if err := c.applyService(ctx, s); err != nil {
		return fmt.Errorf("register %s: %w", s.GroupVersion, err)
	}
	client, err := clientset.NewForConfig(c.Admin)
	if err != nil {
		return err
	}
	port := int32(s.Port)
	wanted := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: s.objectName()},
		Spec: apiregistrationv1.APIServiceSpec{
			Service:              &apiregistrationv1.ServiceReference{Namespace: s.Namespace, Name: s.Name, Port: &port},
			Group:                s.GroupVersion.Group,
			Version:              s.GroupVersion.Version,
			CABundle:             s.CABundle,
			GroupPriorityMinimum: 1000,
			VersionPriority:      10,
		},
	}
	apiServices := client.ApiregistrationV1().APIServices()
	existing, err := apiServices.Get(ctx, wanted.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = apiServices.Create(ctx, wanted, metav1.CreateOptions{})
	case err == nil:
		existing.Spec = wanted.Spec
		_, err = apiServices.Update(ctx, existing, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("register %s: %w", s.GroupVersion, err)
	}
	return waitFor(ctx, fmt.Sprintf("APIService %s", wanted.Name), func(ctx context.Context) error {
		if err := available(ctx, client, wanted.Name); err != nil {
			return err
		}
		return described(c.kubernetes.Discovery(), s.GroupVersion)
	})
}

// UnregisterAPIService deletes the APIService and waits until discovery has forgotten it.
func (c *ControlPlane) UnregisterAPIService(ctx context.Context, s APIService) error {
	client, err := clientset.NewForConfig(c.Admin)
	if err != nil {
		return err
	}
	if err := client.ApiregistrationV1().APIServices().Delete(ctx, s.objectName(), metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("unregister %s: %w", s.GroupVersion, err)
	}
	return waitFor(ctx, "end of "+s.objectName(), func(context.Context) error {
		groups, err := c.kubernetes.Discovery().ServerGroups()
		if err != nil {
			return err
		}
		for _, group := range groups.Groups {
			if group.Name == s.GroupVersion.Group {
				return fmt.Errorf("group %s is still served", group.Name)
			}
		}
		return nil
	})
}

func (c *ControlPlane) applyService(ctx context.Context, s APIService) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.Namespace}}
	_, err := c.kubernetes.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	// kube-apiserver dials the name as it stands: an IP address is a DNS name by its form.
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "127.0.0.1"},
	}
	_, err = c.kubernetes.CoreV1().Services(s.Namespace).Create(ctx, service, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func available(ctx context.Context, client clientset.Interface, name string) error {
	apiService, err := client.ApiregistrationV1().APIServices().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range apiService.Status.Conditions {
		if condition.Type != apiregistrationv1.Available {
			continue
		}
		if condition.Status == apiregistrationv1.ConditionTrue {
			return nil
		}
		return fmt.Errorf("not available: %s: %s", condition.Reason, condition.Message)
	}
	return errors.New("not available: no condition yet")
}

// described asks what kubectl asks: the aggregated discovery document and the index of OpenAPI v3,
// both of which kube-apiserver refreshes some time after the APIService has become available.
func described(client discovery.DiscoveryInterface, gv schema.GroupVersion) error {
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	found := false
	for _, list := range lists {
		found = found || list.GroupVersion == gv.String()
	}
	if !found {
		return fmt.Errorf("discovery does not know %s", gv)
	}
	paths, err := client.OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	if _, found := paths["apis/"+gv.String()]; !found {
		return fmt.Errorf("OpenAPI v3 does not know %s", gv)
	}
	return nil
}

// waitFor polls until the condition returns nil; the error of the last try says why it did not.
func waitFor(ctx context.Context, what string, condition func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		last = condition(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w (%w)", what, err, last)
	}
	return nil
}
