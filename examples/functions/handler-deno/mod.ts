// A handler function, in the form of an object with a method `handler`.

interface Context {
  auth: { id: string; email?: string } | null;
  log: { info(message: string, data?: object): void };
}

export default {
  handler(input: { name?: string }, ctx: Context) {
    const name = input.name ?? "World";
    ctx.log.info("greeting", { name });
    return {
      message: `Hello, ${name}! (from a Deno handler)`,
      caller: ctx.auth?.email ?? "anonymous",
    };
  },
};
