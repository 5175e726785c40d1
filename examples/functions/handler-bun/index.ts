// A handler function: what it returns is the output, what it throws is the error.

interface Context {
  input: { name?: string };
  auth: { id: string; email?: string } | null;
  log: { info(message: string, data?: object): void };
}

export default async function handler(ctx: Context) {
  const name = ctx.input.name ?? "World";
  ctx.log.info("greeting", { name });
  return {
    message: `Hello, ${name}! (from a Bun handler)`,
    caller: ctx.auth?.email ?? "anonymous",
  };
}
