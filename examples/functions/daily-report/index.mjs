// Sums up a day's orders. See function.yaml for everything that a manifest can say.

export default async function handler(ctx) {
  const { date = new Date().toISOString().slice(0, 10), orders = [] } = ctx.input;
  if (orders.length === 0) ctx.log.warn('no orders', { date });

  const cents = orders.reduce((sum, order) => sum + order.cents, 0);
  return {
    title: `${ctx.env.TITLE} ${date}`,
    orders: orders.length,
    total: `${(cents / 100).toFixed(2)} ${ctx.env.CURRENCY}`,
  };
}
