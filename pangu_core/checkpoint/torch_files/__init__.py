"""Files of ``torch.save`` read and written as data, tensor by tensor."""
