// manifest-check reads a stream of YAML documents and prints, one a line, what the Go types of Kubernetes and of the
// operators refuse: unknown and repeated fields, values of a wrong type, and what the operators' own code finds wrong
// after its defaults are set. The API server misses some of it: see test_types.py. Exit status 1 if something was printed.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	mpi "github.com/kubeflow/mpi-operator/pkg/apis/kubeflow/v2beta1"
	"github.com/kubeflow/mpi-operator/pkg/apis/kubeflow/validation"
	trainer "github.com/kubeflow/trainer/v2/pkg/apis/trainer/v1alpha1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	scheduling "k8s.io/api/scheduling/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	jobset "sigs.k8s.io/jobset/api/jobset/v1alpha2"
)

// Kueue's types come in no module that could be had: its objects are read by nobody here.
const untypedGroup = "kueue.x-k8s.io"

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		batch.AddToScheme, core.AddToScheme, networking.AddToScheme, policy.AddToScheme, rbac.AddToScheme,
		scheduling.AddToScheme, storage.AddToScheme,
		mpi.AddToScheme, jobset.AddToScheme, trainer.AddToScheme, monitoring.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return scheme
}

// checkMPIJob asks the operator's validation, and of the one enumeration that neither it nor the CRD looks at.
func checkMPIJob(job *mpi.MPIJob) []error {
	mpi.SetDefaults_MPIJob(job)
	found := validation.ValidateMPIJob(job)
	allowed := []mpi.LauncherCreationPolicy{mpi.LauncherCreationPolicyAtStartup, mpi.LauncherCreationPolicyWaitForWorkersReady}
	policy := job.Spec.LauncherCreationPolicy
	if policy != allowed[0] && policy != allowed[1] {
		found = append(found, field.NotSupported(field.NewPath("spec", "launcherCreationPolicy"), policy, allowed))
	}
	errs := make([]error, len(found))
	for i, err := range found {
		errs[i] = err
	}
	return errs
}

func check(decoder runtime.Decoder, document []byte) (what string, errs []error) {
	object, kind, err := decoder.Decode(document, nil, nil)
	if kind != nil {
		what = kind.Kind
		if kind.Group == untypedGroup {
			return what, nil
		}
	}
	if err != nil {
		return what, []error{err}
	}
	if job, is := object.(*mpi.MPIJob); is {
		return what, checkMPIJob(job)
	}
	return what, nil
}

func main() {
	scheme := newScheme()
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	documents := yaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	status := 0
	for number := 1; ; number++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			os.Exit(status)
		} else if err != nil {
			panic(err)
		}
		what, errs := check(decoder, document)
		for _, err := range errs {
			fmt.Printf("document %d, %s: %v\n", number, what, err)
			status = 1
		}
	}
}
