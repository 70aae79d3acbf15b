/** Methods of gRPC services, in the form that grpc-js takes. */
import type { MethodDefinition } from '@grpc/grpc-js';
import type { Codec } from '../protobuf.ts';

export type Method<Request, Response> = MethodDefinition<Request, Response>;

/** `path` is `/package.Service/Method`. `responses`: one message, or a stream of them. */
export function method<Request, Response>(
  path: string,
  request: Codec<Request>,
  response: Codec<Response>,
  responses: 'one' | 'stream' = 'one',
): Method<Request, Response> {
  return {
    path,
    requestStream: false,
    responseStream: responses === 'stream',
    requestSerialize: request.encode,
    requestDeserialize: request.decode,
    responseSerialize: response.encode,
    responseDeserialize: response.decode,
  };
}
