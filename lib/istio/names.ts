/** Names of the annotations, labels and variables that are read or written outside of the option table. */

/** The prefix of this project's annotations and conditions, and its name as a reporter of Events. */
export const DOMAIN = 'pod-network-controller.istio.io';

/**
 * Whether an annotation or a type of condition is this project's. Such an annotation takes precedence over an
 * injector's.
 */
export function isOwn(name: string): boolean {
  return name.startsWith(`${DOMAIN}/`);
}

/** Annotations that the controller writes: the result, the netns for which it is valid, and a hash of the configuration. */
export const STATUS = `${DOMAIN}/status`;
export const NETNS = `${DOMAIN}/netns`;
export const RULES = `${DOMAIN}/rules`;

/** The original controller's annotation to enroll a pod: "true" or "false", on a pod or on its namespace. */
export const INITIALIZE = 'istio-pod-network-controller/initialize';
/** Istio's label, which takes precedence over the annotation of the same name. */
export const INJECT = 'sidecar.istio.io/inject';
/** Istio's injector writes this annotation. The controller keeps only whether it exists. */
export const INJECTED = 'sidecar.istio.io/status';
/** OpenShift uses these as labels and as annotations. */
export const DEPLOYER = 'openshift.io/deployer-pod-for.name';
export const BUILD = 'openshift.io/build.name';
/** An environment variable of istio-proxy. */
export const DISABLE_ENVOY = 'DISABLE_ENVOY';
